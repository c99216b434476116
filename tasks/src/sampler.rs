//! The choice of examples, draw for draw as lm-eval's samplers make them.

use harness_python::PythonRandom;
use serde_json::{Map, Value};

/// Row numbers of the examples of every document, in evaluation order.
///
/// With `exclude` a document is never its own example: the default sampler draws one more and leaves out rows equal to the
/// document, and where that leaves too few draws again from the other rows; `first_n` leaves them out first. The
/// generator's state is carried from document to document. `None` where the pool is too small.
pub(crate) fn choose(
    documents: &[&Map<String, Value>],
    pool: &[Map<String, Value>],
    n: usize,
    first_n: bool,
    exclude: bool,
    seed: i64,
) -> Option<Vec<Vec<usize>>> {
    if n == 0 {
        return Some(vec![Vec::new(); documents.len()]);
    }
    let own = |doc: &Map<String, Value>, row: usize| exclude && pool[row] == *doc;
    let others = |doc: &Map<String, Value>| (0..pool.len()).filter(|&row| !own(doc, row)).collect::<Vec<usize>>();
    let enough = |rows: Vec<usize>| (rows.len() >= n).then_some(rows);
    if first_n {
        let chosen = |doc: &Map<String, Value>| -> Option<Vec<usize>> {
            enough((0..pool.len()).filter(|&row| !own(doc, row)).take(n).collect())
        };
        return documents.iter().map(|doc| chosen(doc)).collect();
    }
    let draw = n + usize::from(exclude);
    if pool.len() < draw {
        return None;
    }
    let mut rng = PythonRandom::from_int(seed);
    let chosen = |doc: &Map<String, Value>| -> Option<Vec<usize>> {
        let drawn = rng.sample(pool.len(), draw).into_iter().filter(|&row| !own(doc, row)).take(n).collect();
        enough(drawn).or_else(|| {
            let others = enough(others(doc))?;
            Some(rng.sample(others.len(), n).into_iter().map(|at| others[at]).collect())
        })
    };
    documents.iter().copied().map(chosen).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rows(n: i64) -> Vec<Map<String, Value>> {
        (0..n).map(|i| json!({"i": i}).as_object().unwrap().clone()).collect()
    }

    #[test]
    fn state_is_carried_and_documents_are_left_out() {
        let pool = rows(10);
        let documents: Vec<_> = pool.iter().take(3).collect();
        let all = choose(&documents, &pool, 3, false, false, 1234).unwrap();
        assert_ne!(all[0], all[1]);
        assert_eq!(choose(&documents[..1], &pool, 3, false, false, 1234).unwrap()[0], all[0]);
        let without = choose(&documents, &pool, 9, false, true, 1234).unwrap();
        assert!(without.iter().enumerate().all(|(i, rows)| rows.len() == 9 && !rows.contains(&i)));
        assert_eq!(choose(&documents, &pool, 2, true, true, 0).unwrap(), [[1, 2], [0, 2], [0, 1]]);
        assert_eq!(choose(&documents, &pool, 10, false, true, 0), None);
        assert_eq!(choose(&documents, &pool, 11, true, false, 0), None);
    }

    #[test]
    fn rows_that_are_there_several_times_are_left_out_each_time() {
        // lm-eval 0.4.13: `ContextSampler(pool, rnd=1234).sample(2, eval_doc=pool[i])` for i = 0 to 3.
        let pool: Vec<_> = [0, 0, 0, 0, 1, 2, 3].map(|i| json!({"i": i}).as_object().unwrap().clone()).to_vec();
        let documents: Vec<_> = pool.iter().take(4).collect();
        let chosen = choose(&documents, &pool, 2, false, true, 1234).unwrap();
        assert_eq!(chosen, [[4, 6], [6, 4], [5, 6], [4, 6]]);
        let twice = [pool[0].clone(), pool[0].clone(), pool[4].clone()];
        assert_eq!(choose(&[&twice[0]], &twice, 2, false, true, 0), None, "one other row is left");
    }
}
