//! From the source of a template to instructions that stop where a budget ends.

use std::collections::BTreeMap;

use minijinja::{
    Error, ErrorKind, Value,
    machinery::{CodeGenerator, Instruction, Instructions, Span, Token, parse, tokenize},
    syntax::SyntaxConfig,
};

use crate::{budget::exceeded, weight::weight};
use harness_core::{Limits, bytes_in_words};

/// The filter that weighs a value and hands it on; no template can write its name.
pub(crate) const WEIGHED: &str = "%weighed";

/// What errors call the template; who asked for it knows its file.
const NAME: &str = "<string>";

/// A filter that is looked up anew each time.
const NOT_CACHED: u8 = !0;

/// The instructions of a template and of its blocks.
pub(crate) struct Compiled<'source> {
    pub main: Instructions<'source>,
    pub blocks: BTreeMap<&'source str, Instructions<'source>>,
}

/// Compiles a template.
///
/// # Errors
/// If it is not valid Jinja, or longer than the limits allow.
pub(crate) fn compile<'source>(
    source: &'source str,
    syntax: &SyntaxConfig,
    limits: Limits,
) -> Result<Compiled<'source>, Error> {
    check_lengths(source, syntax, limits)?;
    let tree = parse(source, NAME, syntax.clone())?;
    let mut generator = CodeGenerator::new(NAME, source);
    generator.compile_stmt(&tree);
    let (main, blocks) = generator.finish();
    let blocks = blocks.iter().map(|(name, block)| Ok((*name, guarded(block)?))).collect::<Result<_, Error>>()?;
    Ok(Compiled { main: guarded(&main)?, blocks })
}

/// The parser makes a tree whose depth is the length of a chain of operators, and what walks it recurses: chains are
/// counted before it begins.
fn check_lengths(source: &str, syntax: &SyntaxConfig, limits: Limits) -> Result<(), Error> {
    if source.len() > limits.template_source {
        let source_bytes = bytes_in_words(limits.template_source as u64);
        return Err(exceeded(format!("a source of more than {source_bytes}"), "template_source"));
    }
    let (mut operators, mut branches) = (0, 0usize);
    for token in tokenize(source, false, syntax.clone()) {
        let Ok((token, span)) = token else { break };
        match token {
            Token::VariableStart | Token::BlockStart => operators = 0,
            // A chain of `elif` is a tree as deep as it is long.
            Token::Ident("elif") => branches += 1,
            Token::Ident("endif") => branches = 0,
            _ => {}
        }
        operators += usize::from(is_operator(&token));
        if operators.max(branches) > limits.template_operators {
            let message = format!("an expression of more than {} operators", limits.template_operators);
            return Err(at(exceeded(message, "template_operators"), source, span));
        }
    }
    Ok(())
}

fn is_operator(token: &Token<'_>) -> bool {
    const WORDS: [&str; 7] = ["not", "and", "or", "is", "in", "if", "else"];
    match token {
        Token::Ident(word) => WORDS.contains(word),
        Token::Plus
        | Token::Minus
        | Token::Mul
        | Token::Div
        | Token::FloorDiv
        | Token::Pow
        | Token::Mod
        | Token::Dot
        | Token::Tilde
        | Token::Eq
        | Token::Ne
        | Token::Gt
        | Token::Gte
        | Token::Lt
        | Token::Lte
        | Token::Pipe
        | Token::BracketOpen
        | Token::ParenOpen
        | Token::BraceOpen => true,
        _ => false,
    }
}

fn at(error: Error, source: &str, span: Span) -> Error {
    let line = usize::from(span.start_line);
    let detail = error.detail().unwrap_or_default().to_owned();
    let shown: String = source.lines().nth(line.saturating_sub(1)).unwrap_or_default().chars().take(60).collect();
    Error::new(ErrorKind::SyntaxError, format!("{detail} (line {line}: {shown})"))
}

/// The same instructions with a check after each that makes a value.
fn guarded<'source>(plain: &Instructions<'source>) -> Result<Instructions<'source>, Error> {
    let all = (0..).map_while(|at| plain.get(at).map(|instruction| (at, instruction)));
    // Where each instruction begins among the new ones.
    let mut begins: Vec<u32> = vec![0];
    for (_, instruction) in all.clone() {
        let end = begins.last().copied().unwrap_or(0) + replaced(instruction).len() as u32;
        begins.push(end);
    }
    let target = |old: u32| -> Result<u32, Error> {
        begins
            .get(old as usize)
            .copied()
            .ok_or_else(|| Error::new(ErrorKind::BadSerialization, "a jump out of the template"))
    };
    let mut guarded = Instructions::new(plain.name(), plain.source());
    for (at, instruction) in all {
        // The generator computes constant expressions.
        if let Instruction::LoadConst(value) = instruction {
            weight(value)?;
        }
        for mut instruction in replaced(instruction) {
            match &mut instruction {
                Instruction::Iterate(to)
                | Instruction::Jump(to)
                | Instruction::JumpIfFalse(to)
                | Instruction::JumpIfFalseOrPop(to)
                | Instruction::JumpIfTrueOrPop(to)
                | Instruction::BuildMacro(_, to, _) => *to = target(*to)?,
                _ => {}
            }
            match (plain.get_span(at), plain.get_line(at)) {
                (Some(span), _) => guarded.add_with_span(instruction, span),
                (None, Some(line)) => guarded.add_with_line(instruction, u16::try_from(line).unwrap_or(u16::MAX)),
                (None, None) => guarded.add(instruction),
            };
        }
    }
    Ok(guarded)
}

/// What stands for an instruction.
fn replaced<'source>(instruction: &Instruction<'source>) -> Vec<Instruction<'source>> {
    use Instruction::{
        Add, ApplyFilter, BuildList, BuildMap, BuildTuple, CallFunction, CallMethod, CallObject, DiscardTop, DupTop,
        Emit, EmitRaw, EndCapture, LoadConst, Mul, SetAttr, Slice, StringConcat, Swap, UnpackList,
    };
    let weigh = || ApplyFilter(WEIGHED, Some(1), NOT_CACHED);
    match instruction {
        // All output passes the formatter, which counts it.
        EmitRaw(text) => vec![LoadConst(Value::from_safe_string((*text).to_owned())), Emit],
        // Both sides are printed: two values that share their parts can be far larger as a text.
        StringConcat => {
            vec![BuildList(Some(2)), weigh(), UnpackList(2), Swap, StringConcat, weigh()]
        }
        Add | Mul | Slice | BuildMap(_) | BuildList(_) | BuildTuple(_) | EndCapture | ApplyFilter(..)
        | CallFunction(..) | CallMethod(..) | CallObject(_) => vec![instruction.clone(), weigh()],
        // A namespace must not come to hold itself.
        SetAttr(_) => {
            vec![BuildList(Some(2)), DupTop, UnpackList(2), Swap, instruction.clone(), weigh(), DiscardTop]
        }
        _ => vec![instruction.clone()],
    }
}
