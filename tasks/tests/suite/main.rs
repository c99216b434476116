//! Tasks against lm-eval's own requests, answers and scores, and against mistakes.

mod bad_input;
mod common;
mod end_to_end;
mod families;
mod filters;
mod lm_eval_files;
mod real_data;
mod requests;
mod scores;
mod task_files;
