//! Checks that models over one base compute together what each computes alone.

use harness_decoder::{Decoder, KvBlock, Piece, Together};

/// The prompts of every model, and the rows of each whose logits are compared.
const PROMPTS: [(&[u32], &[usize]); 3] =
    [(&[3, 1, 4, 1, 5, 9, 2, 6], &[0, 3, 4, 7]), (&[2, 7, 1], &[2]), (&[11, 13], &[])];

/// Tokens that follow every prompt, and how many of them are dropped again.
const STEPS: [(&[u32], usize); 3] = [(&[8], 0), (&[2, 8, 1, 8], 2), (&[4, 5], 0)];

/// One pass, by whatever computes it: decoders with their pieces to all logits.
type Pass<'a> = &'a mut dyn FnMut(&[&Decoder], &mut [Piece<'_>], usize) -> Vec<f32>;

/// The bits of the logits of all passes, in which each model has all prompts.
fn logits(models: &[&Decoder], pass: Pass<'_>) -> Vec<Vec<u32>> {
    let bits = |logits: Vec<f32>| logits.into_iter().map(f32::to_bits).collect();
    let prompts = || models.iter().flat_map(|_| PROMPTS);
    let mut pieces: Vec<Piece<'_>> = prompts()
        .zip(models.iter().flat_map(|decoder| [decoder; PROMPTS.len()]))
        .map(|((tokens, wanted), decoder)| Piece {
            tokens,
            path: vec![],
            tail: Some(decoder.kv_block(0)),
            wanted: wanted.to_vec(),
            length: tokens.len(),
        })
        .collect();
    let mut found = vec![bits(pass(models, &mut pieces, PROMPTS.len()))];
    let mut tails: Vec<KvBlock> = pieces.into_iter().filter_map(|piece| piece.tail).collect();
    for (tokens, dropped) in STEPS {
        let mut pieces: Vec<Piece<'_>> = tails
            .into_iter()
            .map(|tail| Piece {
                tokens,
                path: vec![],
                length: 16,
                tail: Some(tail),
                wanted: (0..tokens.len()).collect(),
            })
            .collect();
        found.push(bits(pass(models, &mut pieces, PROMPTS.len())));
        tails = pieces.into_iter().filter_map(|piece| piece.tail).collect();
        tails.iter_mut().for_each(|tail| tail.drop_last(dropped));
    }
    found
}

/// Checks that models over one base give together, bit by bit, the logits that each gives alone, token by token.
pub(crate) fn assert_together_is_alone(what: &str, models: &[&Decoder]) {
    let mut one_pass = |models: &[&Decoder], pieces: &mut [Piece<'_>], each: usize| {
        let rows = |model: usize| pieces[model * each..][..each].iter().map(|piece| piece.wanted.len()).sum();
        let by_rows = Together::new(models.iter().enumerate().map(|(model, decoder)| (*decoder, rows(model))));
        let hidden = Together::new(models.iter().map(|decoder| (*decoder, each))).forward(pieces).unwrap();
        by_rows.logits(&hidden).unwrap()
    };
    let together = logits(models, &mut one_pass);
    // Alone, and one row after the other.
    let mut row_by_row = |models: &[&Decoder], pieces: &mut [Piece<'_>], _: usize| {
        let mut logits = vec![];
        for piece in pieces {
            let wanted = std::mem::take(&mut piece.wanted);
            for row in 0..piece.tokens.len() {
                let mut one = [Piece {
                    tokens: &piece.tokens[row..=row],
                    path: vec![],
                    tail: piece.tail.take(),
                    wanted: vec![0],
                    length: piece.length,
                }];
                let hidden = models[0].forward(&mut one).unwrap();
                if wanted.contains(&row) {
                    logits.extend(models[0].logits(&hidden).unwrap());
                }
                [Piece { tail: piece.tail, .. }] = one;
            }
        }
        logits
    };
    let mut alone = vec![vec![]; together.len()];
    for decoder in models {
        for (all, own) in alone.iter_mut().zip(logits(&[decoder], &mut row_by_row)) {
            all.extend(own);
        }
    }
    assert!(together == alone, "{what}: models compute together what they do not compute alone");
    assert!(together.iter().all(|pass| !pass.is_empty()), "{what}");
}
