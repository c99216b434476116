//! The forest of shared token prefixes.
//!
//! Sequences that begin alike share nodes: the few-shot header of a subject, the question under its four choices. Each
//! node is computed once, and only rows whose logits are wanted are kept.

use std::ops::Range;

/// A split is worth its cost from this many token positions saved.
const WORTHWHILE: usize = 16;

/// One sequence of input tokens.
#[derive(Clone, Debug)]
pub(crate) struct Sequence {
    /// Tokens the model reads.
    pub(crate) tokens: Vec<u32>,
    /// Rows whose hidden state is wanted, ascending.
    pub(crate) wanted: Range<usize>,
}

/// A run of tokens shared by all sequences below it.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// The node before this one.
    pub(crate) parent: Option<usize>,
    /// Some sequence that passes through.
    pub(crate) sequence: usize,
    /// Positions of the run in that sequence.
    pub(crate) span: Range<usize>,
    /// The nodes that follow directly.
    pub(crate) children: Vec<usize>,
    /// Rows within the run that are wanted by some sequence, ascending.
    pub(crate) wanted: Vec<usize>,
}

/// All nodes; a parent comes before its children.
#[derive(Debug, Default)]
pub(crate) struct Forest {
    pub(crate) nodes: Vec<Node>,
    /// First nodes, in order of their tokens.
    pub(crate) roots: Vec<usize>,
    /// The last node of each sequence; `None` for an empty one.
    pub(crate) ends: Vec<Option<usize>>,
}

impl Forest {
    /// Builds the forest of all sequences. Those of more than `short` tokens share nothing with shorter ones.
    pub(crate) fn build(sequences: &[Sequence], short: usize) -> Self {
        let mut order: Vec<usize> = (0..sequences.len()).filter(|&i| !sequences[i].tokens.is_empty()).collect();
        let is_long = |i: usize| sequences[i].tokens.len() > short;
        order.sort_by(|&a, &b| {
            is_long(a).cmp(&is_long(b)).then_with(|| sequences[a].tokens.cmp(&sequences[b].tokens)).then(a.cmp(&b))
        });
        let mut forest = Self { ends: vec![None; sequences.len()], ..Self::default() };
        let long = order.partition_point(|&i| !is_long(i));
        let mut ranges = vec![(long..order.len(), 0, None), (0..long, 0, None)];
        // Each entry: sequences that agree up to `depth`, below `parent`. They are split by their next token.
        while let Some((range, depth, parent)) = ranges.pop() {
            let mut pending = vec![];
            let mut start = range.start;
            while start < range.end {
                let token = sequences[order[start]].tokens[depth];
                let mut end = start + 1;
                while end < range.end && sequences[order[end]].tokens[depth] == token {
                    end += 1;
                }
                pending.extend(forest.add(sequences, &order, start..end, depth, parent));
                start = end;
            }
            // Popped in order of tokens.
            ranges.extend(pending.into_iter().rev());
        }
        forest.collect_wanted(sequences);
        forest
    }

    /// Adds the node of sequences that agree in the token at `depth`; returns what is to be split below it.
    fn add(
        &mut self,
        sequences: &[Sequence],
        order: &[usize],
        group: Range<usize>,
        depth: usize,
        parent: Option<usize>,
    ) -> Option<(Range<usize>, usize, Option<usize>)> {
        let first = &sequences[order[group.start]].tokens;
        let last = &sequences[order[group.end - 1]].tokens;
        // Sorted, so what the first and the last share, all share.
        let shared = shared(&first[depth..], &last[depth..]);
        let node = self.nodes.len();
        self.nodes.push(Node {
            parent,
            sequence: order[group.start],
            span: depth..depth + shared,
            children: vec![],
            wanted: vec![],
        });
        match parent {
            Some(parent) => self.nodes[parent].children.push(node),
            None => self.roots.push(node),
        }
        let end = depth + shared;
        let mut rest = group.start;
        while rest < group.end && sequences[order[rest]].tokens.len() == end {
            self.ends[order[rest]] = Some(node);
            rest += 1;
        }
        (rest < group.end).then_some((rest..group.end, end, Some(node)))
    }

    fn collect_wanted(&mut self, sequences: &[Sequence]) {
        for (index, sequence) in sequences.iter().enumerate() {
            let mut at = self.ends[index];
            while let Some(node) = at {
                let span = self.nodes[node].span.clone();
                if span.end <= sequence.wanted.start {
                    break;
                }
                let rows = sequence.wanted.start.max(span.start)..sequence.wanted.end.min(span.end);
                self.nodes[node].wanted.extend(rows.map(|row| row - span.start));
                at = self.nodes[node].parent;
            }
        }
        for node in &mut self.nodes {
            node.wanted.sort_unstable();
            node.wanted.dedup();
        }
    }

    /// Dissolves nodes that save too little: their tokens go to the front of each child. Nodes with wanted rows, and
    /// those where a sequence ends, stay.
    pub(crate) fn prune(self) -> Self {
        let mut ending = vec![false; self.nodes.len()];
        self.ends.iter().flatten().for_each(|&end| ending[end] = true);
        let dissolved: Vec<bool> = self
            .nodes
            .iter()
            .enumerate()
            .map(|(i, node)| {
                let saved = node.span.len() * node.children.len().saturating_sub(1);
                saved < WORTHWHILE && !ending[i] && node.wanted.is_empty() && !node.children.is_empty()
            })
            .collect();
        let mut moved = vec![usize::MAX; self.nodes.len()];
        let mut kept = Self::default();
        for (i, node) in self.nodes.iter().enumerate() {
            if dissolved[i] {
                continue;
            }
            let (mut parent, mut start) = (node.parent, node.span.start);
            while let Some(p) = parent.filter(|&p| dissolved[p]) {
                start = self.nodes[p].span.start;
                parent = self.nodes[p].parent;
            }
            let shift = node.span.start - start;
            moved[i] = kept.nodes.len();
            // Parents come before their children, so the new place of this one's is known.
            let parent = parent.map(|p| moved[p]);
            match parent {
                Some(parent) => kept.nodes[parent].children.push(moved[i]),
                None => kept.roots.push(moved[i]),
            }
            kept.nodes.push(Node {
                parent,
                sequence: node.sequence,
                span: start..node.span.end,
                children: vec![],
                wanted: node.wanted.iter().map(|row| row + shift).collect(),
            });
        }
        kept.ends = self.ends.iter().map(|end| end.map(|end| moved[end])).collect();
        kept
    }

    /// The nodes of a sequence from first to last.
    pub(crate) fn path(&self, end: usize) -> Vec<usize> {
        let mut path = vec![end];
        while let Some(parent) = self.nodes[path[path.len() - 1]].parent {
            path.push(parent);
        }
        path.reverse();
        path
    }

    /// Token positions in all nodes: what is computed.
    #[cfg(test)]
    pub(crate) fn tokens(&self) -> usize {
        self.nodes.iter().map(|node| node.span.len()).sum()
    }
}

/// Tokens that two runs begin with in common.
pub(crate) fn shared(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sequence(tokens: &[u32], wanted: Range<usize>) -> Sequence {
        Sequence { tokens: tokens.to_vec(), wanted }
    }

    #[test]
    fn shares_the_header_and_the_question() {
        let header: Vec<u32> = (0..50).collect();
        let with = |tail: &[u32]| sequence(&[&header[..], tail].concat(), 50 + tail.len() - 1..50 + tail.len());
        let sequences = [with(&[100, 101, 7]), with(&[100, 101, 8]), with(&[200]), with(&[200])];
        let forest = Forest::build(&sequences, usize::MAX);
        assert_eq!(forest.roots.len(), 1);
        assert_eq!(forest.tokens(), 50 + 2 + 1 + 1 + 1);
        assert_eq!(forest.ends[2], forest.ends[3], "equal sequences share their end");
        let pruned = forest.prune();
        assert_eq!(pruned.tokens(), 50 + 3 + 3 + 1, "two shared tokens are not worth a node");
        assert_eq!(pruned.path(pruned.ends[0].unwrap()).len(), 2);
    }

    #[test]
    fn a_sequence_may_be_the_beginning_of_another() {
        let sequences = [sequence(&[1, 2, 3], 2..3), sequence(&[1, 2, 3, 4, 5], 3..5), sequence(&[], 0..0)];
        let forest = Forest::build(&sequences, usize::MAX).prune();
        assert_eq!(forest.ends[2], None);
        let nodes: Vec<_> = forest.nodes.iter().map(|n| (n.span.clone(), n.wanted.clone())).collect();
        assert_eq!(nodes, [(0..3, vec![2]), (3..5, vec![0, 1])]);
    }

    proptest! {
        #[test]
        fn every_path_spells_its_sequence(
            sequences in proptest::collection::vec((proptest::collection::vec(0u32..3, 0..24), 0usize..24), 0..30),
            pruned: bool,
        ) {
            let sequences: Vec<Sequence> = sequences
                .into_iter()
                .map(|(tokens, from)| { let n = tokens.len(); Sequence { tokens, wanted: from.min(n)..n } })
                .collect();
            let mut forest = Forest::build(&sequences, usize::MAX);
            if pruned {
                forest = forest.prune();
            }
            for (sequence, end) in sequences.iter().zip(&forest.ends) {
                let Some(end) = *end else {
                    prop_assert!(sequence.tokens.is_empty());
                    continue;
                };
                let (mut spelled, mut wanted) = (vec![], vec![]);
                for node in forest.path(end) {
                    let node = &forest.nodes[node];
                    prop_assert_eq!(node.span.start, spelled.len());
                    spelled.extend_from_slice(&sequences[node.sequence].tokens[node.span.clone()]);
                    wanted.extend(node.wanted.iter().map(|row| node.span.start + row));
                }
                prop_assert_eq!(&spelled, &sequence.tokens);
                prop_assert!(sequence.wanted.clone().all(|row| wanted.contains(&row)));
            }
            for (i, node) in forest.nodes.iter().enumerate() {
                prop_assert!(node.parent.is_none_or(|p| p < i), "parents come first");
                prop_assert!(node.children.iter().all(|&c| forest.nodes[c].parent == Some(i)));
            }
        }
    }
}
