//! The choice of examples, draw for draw as lm-eval's samplers make them.

use harness_core::PythonRandom;
use serde_json::{Map, Value};

/// Row numbers of the examples of every document, in evaluation order.
///
/// `exclude` is set where examples come from the evaluated split: the default sampler then draws one more and leaves
/// out rows equal to the document; `first_n` leaves them out first. The generator's state is carried from document to
/// document. `None` where the pool is too small.
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
    if first_n {
        let chosen = |doc: &Map<String, Value>| -> Option<Vec<usize>> {
            let rows: Vec<usize> = (0..pool.len()).filter(|&row| !exclude || pool[row] != *doc).take(n).collect();
            (rows.len() == n).then_some(rows)
        };
        return documents.iter().map(|doc| chosen(doc)).collect();
    }
    let draw = n + usize::from(exclude);
    if pool.len() < draw {
        return None;
    }
    let mut rng = PythonRandom::from_int(seed);
    Some(
        documents
            .iter()
            .map(|doc| {
                let rows = rng.sample(pool.len(), draw).into_iter();
                rows.filter(|&row| !exclude || pool[row] != **doc).take(n).collect()
            })
            .collect(),
    )
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
}
