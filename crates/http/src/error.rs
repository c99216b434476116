//! What can go wrong between here and a server.

/// Errors of endpoints. No message contains a key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// A specification or an option is wrong.
    #[error("{what} {found}: expected {expected}")]
    Option {
        /// Name of the option.
        what: String,
        /// Its value.
        found: String,
        /// What is allowed.
        expected: String,
    },
    /// There is no key, and the server wants one.
    #[error("{url}: {reason}; set the environment variable {variable}, or name another with api_key_env")]
    Key {
        /// The server.
        url: String,
        /// What was noticed.
        reason: String,
        /// The variable that was looked at.
        variable: String,
    },
    /// What the address serves is no OpenAI-compatible API.
    #[error("{url}: {found}; expected the base of an OpenAI-compatible API, usually ending in /v1")]
    Address {
        /// The address that was asked.
        url: String,
        /// What came back.
        found: String,
    },
    /// The server refused a request, and would again.
    #[error("{url}: the server answered {status}: {message}")]
    Refused {
        /// The address.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What the server said.
        message: String,
    },
    /// One request cannot be answered, e.g. because its prompt is too long.
    #[error("{reason}")]
    Request {
        /// What the server said.
        reason: String,
    },
    /// No usable answer after all attempts.
    #[error("{url}: no answer after {attempts} attempt{}; the last: {last}", if *attempts == 1 { "" } else { "s" })]
    Unanswered {
        /// The address.
        url: String,
        /// How often it was tried.
        attempts: u32,
        /// What went wrong the last time.
        last: String,
    },
    /// The work was ended from outside.
    #[error("interrupted while waiting for {url}")]
    Interrupted {
        /// The address.
        url: String,
    },
    /// The server asks to wait longer than allowed.
    #[error("{url}: the server asks to wait {seconds:.0} s, more than the {limit:.0} s allowed; try again later")]
    Wait {
        /// The address.
        url: String,
        /// Seconds asked for.
        seconds: f64,
        /// Seconds allowed.
        limit: f64,
    },
    /// The next request could cost more than is left.
    #[error(
        "the cost limit of {limit:.4} is reached: {spent:.4} are spent, and the next request could cost up to {next:.4}"
    )]
    Budget {
        /// The limit.
        limit: f64,
        /// What was spent.
        spent: f64,
        /// Most that the next request could cost.
        next: f64,
    },
    /// A limit on cost without prices.
    #[error("a cost limit needs the prices of {model}: set input_price and output_price (per million tokens)")]
    Prices {
        /// The model.
        model: String,
    },
    /// The server gives no log-probabilities of prompts.
    #[error(
        "{url}: this server cannot score given texts: {reason}; log-likelihoods need /completions with echo and logprobs, \
         or vLLM's prompt_logprobs"
    )]
    NoLikelihood {
        /// The server.
        url: String,
        /// What was tried and what came back.
        reason: String,
    },
    /// The machine could not start what requests need.
    #[error("cannot set up HTTP: {0}")]
    Setup(String),
}
