//! The server: engines, each on a thread of its own, and the API in front of them.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU64},
    thread::{self, JoinHandle},
    time::Duration,
};

use axum::Router;
use harness_core::Stop;
use harness_engine::{LocalModel, serve};
use tokio::net::{TcpListener, lookup_host};

use crate::{
    desk::Desk,
    error::ServerError,
    metrics::Metrics,
    options::ServerOptions,
    routes::{Shared, handle, now},
    served::{Served, ServedModel},
};

/// How often is looked whether the server is to end.
const LOOK: Duration = Duration::from_millis(50);

/// Models and how they are served.
pub struct Server {
    models: Vec<ServedModel>,
    options: ServerOptions,
}

/// Models over one base, and where requests to them wait.
struct Engine {
    models: Vec<Arc<ServedModel>>,
    desk: Arc<Desk>,
}

impl Server {
    /// A server that is not started yet.
    ///
    /// # Errors
    /// If there is no model, or two have the same name.
    pub fn new(models: Vec<ServedModel>, options: ServerOptions) -> Result<Self, ServerError> {
        if models.is_empty() {
            return Err(ServerError::Option("no model to serve".to_owned()));
        }
        for (at, model) in models.iter().enumerate() {
            if models[..at].iter().any(|other| other.name == model.name) {
                return Err(ServerError::Option(format!("{} is to be served twice", model.name)));
            }
        }
        Ok(Self { models, options })
    }

    /// Serves until it is to stop, and then until what is in flight is answered. `ready` gets the address.
    ///
    /// # Errors
    /// If the address cannot be listened on, or is not of this machine alone and there is no key, or an engine fails.
    pub fn run(self, stop: &Stop, ready: impl FnOnce(SocketAddr)) -> Result<(), ServerError> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.map_err(ServerError::Setup)?;
        let listener = runtime.block_on(listen(&self.options))?;
        let address = listener.local_addr().map_err(ServerError::Setup)?;
        let metrics = Arc::new(Metrics::default());
        let mut engines: Vec<Engine> = vec![];
        let mut models = vec![];
        for model in self.models {
            let same = |engine: &Engine| Arc::ptr_eq(engine.models[0].model.base().model(), model.model.base().model());
            let at = engines.iter().position(same).unwrap_or(engines.len());
            if at == engines.len() {
                let desk = Desk::new(self.options.queue, self.options.patience, Arc::clone(&metrics));
                engines.push(Engine { models: vec![], desk: Arc::new(desk) });
            }
            let engine = &mut engines[at];
            let (of, place) = (Arc::new(model), engine.models.len());
            engine.models.push(Arc::clone(&of));
            models.push(Served { of, desk: Arc::clone(&engine.desk), place });
        }
        let desks: Vec<Arc<Desk>> = engines.iter().map(|engine| Arc::clone(&engine.desk)).collect();
        let prompt_tokens = self.options.prompt_tokens;
        let threads: Vec<_> = engines.into_iter().map(|engine| engine.start(prompt_tokens)).collect();
        let (started, requests) = (now(), AtomicU64::new(0));
        let shared = Arc::new(Shared { models, options: self.options, metrics, started, requests });
        ready(address);
        let ending = {
            let (stop, desks) = (stop.clone(), desks.clone());
            async move {
                while !stop.is_requested() && desks.iter().all(|desk| desk.ended().is_none()) {
                    tokio::time::sleep(LOOK).await;
                }
                desks.iter().for_each(|desk| desk.close());
            }
        };
        let router = Router::new().fallback(handle).with_state(shared);
        let served = runtime.block_on(async { axum::serve(listener, router).with_graceful_shutdown(ending).await });
        desks.iter().for_each(|desk| desk.close());
        let ended: Vec<Result<(), String>> = threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err("an engine broke".to_owned())))
            .collect();
        served.map_err(ServerError::Setup)?;
        ended.into_iter().collect::<Result<(), String>>().map_err(ServerError::Engine)
    }
}

impl Engine {
    fn start(self, prompt_tokens: usize) -> JoinHandle<Result<(), String>> {
        thread::spawn(move || {
            // Whoever waits is told, also where the engine panics.
            let told = Told(&self.desk);
            let models: Vec<&LocalModel> = self.models.iter().map(|model| &model.model).collect();
            let ended = serve(&models, &*self.desk, prompt_tokens).map_err(|error| error.to_string());
            std::mem::forget(told);
            self.desk.end(ended.as_ref().err().map_or("the server has ended", String::as_str));
            ended
        })
    }
}

struct Told<'a>(&'a Desk);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        self.0.end("the engine broke");
    }
}

/// Listens where the options say.
async fn listen(options: &ServerOptions) -> Result<TcpListener, ServerError> {
    let address = format!("{}:{}", options.host, options.port);
    let failed = |source| ServerError::Listen { address: address.clone(), source };
    let found: Vec<SocketAddr> = lookup_host((options.host.as_str(), options.port)).await.map_err(failed)?.collect();
    if options.key.is_none() && !found.iter().all(|address| address.ip().is_loopback()) {
        let reason = format!(
            "{} can be reached from other machines: set HARNESS_API_KEY to a key that requests must name, or listen on \
             127.0.0.1",
            options.host
        );
        return Err(ServerError::Option(reason));
    }
    TcpListener::bind(&*found).await.map_err(failed)
}
