//! Prints how often intervals cover the truth when a judge's biases are known: `cargo run --release -p harness-judges
//! --example simulate_judge [SIMULATIONS]`.
#![allow(clippy::print_stdout, reason = "an example prints")]

use harness_judges::simulation::Simulation;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let simulations = std::env::args().nth(1).map_or(Ok(1000), |text| text.parse())?;
    let result = Simulation { simulations, ..Simulation::default() }.run()?;
    println!("truth: {:.2} %", 100.0 * result.truth);
    println!("{:<34} {:>9} {:>9} {:>9}", "method", "estimate", "± width", "coverage");
    for method in result.methods {
        println!(
            "{:<34} {:>8.2}% {:>8.2}% {:>8.1}%",
            method.method,
            100.0 * method.mean_estimate,
            100.0 * method.mean_half_width,
            100.0 * method.coverage
        );
    }
    Ok(())
}
