//! What the server counts, for Prometheus. Labels name no tenants: there may be thousands.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use flowcell_session::SessionState;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::app::App;

/// Bounds of duration buckets, in seconds.
const BUCKETS: [f64; 14] = [
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0, 300.0,
];

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CallLabels {
    status: &'static str,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    method: String,
    route: String,
    status: u16,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct WorkerLabels {
    worker: u64,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StateLabels {
    state: State,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelValue)]
#[expect(
    non_camel_case_types,
    reason = "the values of the label are lower case"
)]
enum State {
    starting,
    running,
    hibernated,
    stopping,
    stopped,
    failed,
}

/// The server's metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    calls: Family<CallLabels, Counter>,
    call_seconds: Family<CallLabels, Histogram>,
    requests: Family<RequestLabels, Counter>,
    request_seconds: Histogram,
    sessions: Family<StateLabels, Gauge>,
    computes: Gauge,
    instances_busy: Gauge,
    instances_idle: Gauge,
    memory: Gauge,
    cpu_seconds: Gauge<f64, AtomicU64>,
    throttled_seconds: Gauge<f64, AtomicU64>,
    starts: Counter,
    resumes: Counter,
    hibernations: Counter,
    input_tokens: Counter,
    output_tokens: Counter,
    guest_requests: Family<OutcomeLabels, Counter>,
    start_seconds: Gauge<f64, AtomicU64>,
    hibernate_seconds: Gauge<f64, AtomicU64>,
    hibernated_bytes: Gauge,
    workers: Gauge,
    worker_restarts: Gauge,
    worker_sessions: Family<WorkerLabels, Gauge>,
}

impl Metrics {
    /// Metrics that are all zero.
    pub fn new() -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(BUCKETS);
        let metrics = Self {
            registry: Mutex::default(),
            calls: Family::default(),
            call_seconds: Family::new_with_constructor(histogram),
            requests: Family::default(),
            request_seconds: histogram(),
            sessions: Family::default(),
            computes: Gauge::default(),
            instances_busy: Gauge::default(),
            instances_idle: Gauge::default(),
            memory: Gauge::default(),
            cpu_seconds: Gauge::default(),
            throttled_seconds: Gauge::default(),
            starts: Counter::default(),
            resumes: Counter::default(),
            hibernations: Counter::default(),
            input_tokens: Counter::default(),
            output_tokens: Counter::default(),
            guest_requests: Family::default(),
            start_seconds: Gauge::default(),
            hibernate_seconds: Gauge::default(),
            hibernated_bytes: Gauge::default(),
            workers: Gauge::default(),
            worker_restarts: Gauge::default(),
            worker_sessions: Family::default(),
        };
        let mut registry = Registry::with_prefix("flowcell");
        registry.register(
            "model_input_tokens",
            "Tokens of what models were asked, as they count them",
            metrics.input_tokens.clone(),
        );
        registry.register(
            "model_output_tokens",
            "Tokens of what models answered, as they count them",
            metrics.output_tokens.clone(),
        );
        registry.register(
            "guest_requests",
            "Requests that tools have made, or tried to make, by what became of them",
            metrics.guest_requests.clone(),
        );
        registry.register(
            "calls",
            "Calls of flows that have ended",
            metrics.calls.clone(),
        );
        registry.register_with_unit(
            "call_duration",
            "How long calls took",
            Unit::Seconds,
            metrics.call_seconds.clone(),
        );
        registry.register(
            "http_requests",
            "Requests answered",
            metrics.requests.clone(),
        );
        registry.register_with_unit(
            "http_request_duration",
            "How long requests took, up to the answer's head",
            Unit::Seconds,
            metrics.request_seconds.clone(),
        );
        registry.register("sessions", "Sessions by state", metrics.sessions.clone());
        registry.register("computes", "Computes", metrics.computes.clone());
        registry.register(
            "instances_busy",
            "Instances in a call",
            metrics.instances_busy.clone(),
        );
        registry.register(
            "instances_idle",
            "Instances waiting for a call",
            metrics.instances_idle.clone(),
        );
        registry.register_with_unit(
            "instance_memory",
            "Memory of all instances",
            Unit::Bytes,
            metrics.memory.clone(),
        );
        registry.register_with_unit(
            "guest_cpu",
            "CPU time of all guests since the host started",
            Unit::Seconds,
            metrics.cpu_seconds.clone(),
        );
        registry.register_with_unit(
            "guest_throttled",
            "How long guests were held back to keep to their CPU share",
            Unit::Seconds,
            metrics.throttled_seconds.clone(),
        );
        registry.register(
            "instances_started",
            "Instances that were made, those that went on from being stored included",
            metrics.starts.clone(),
        );
        registry.register(
            "instances_resumed",
            "Instances that went on from being stored",
            metrics.resumes.clone(),
        );
        registry.register(
            "instances_hibernated",
            "Instances that were stored",
            metrics.hibernations.clone(),
        );
        registry.register_with_unit(
            "instance_start",
            "Time spent on making instances since the host started",
            Unit::Seconds,
            metrics.start_seconds.clone(),
        );
        registry.register_with_unit(
            "instance_hibernate",
            "Time spent on storing instances since the host started",
            Unit::Seconds,
            metrics.hibernate_seconds.clone(),
        );
        registry.register_with_unit(
            "hibernated",
            "Size of what is stored of hibernated sessions",
            Unit::Bytes,
            metrics.hibernated_bytes.clone(),
        );
        registry.register(
            "workers",
            "Worker processes that are alive",
            metrics.workers.clone(),
        );
        registry.register(
            "worker_restarts",
            "Worker processes started in place of one that had ended, since the host started",
            metrics.worker_restarts.clone(),
        );
        registry.register(
            "worker_sessions",
            "Sessions that have a place in a worker, open or not",
            metrics.worker_sessions.clone(),
        );
        *metrics.lock() = registry;
        metrics
    }

    /// Counts a call that has ended.
    pub fn call(&self, status: &'static str, took: Duration) {
        let labels = CallLabels { status };
        self.calls.get_or_create(&labels).inc();
        self.call_seconds
            .get_or_create(&labels)
            .observe(took.as_secs_f64());
    }

    /// Counts a request that was answered. `route` is the path's pattern, so that there are not too many.
    pub fn request(&self, method: &str, route: &str, status: u16, took: Duration) {
        let labels = RequestLabels {
            method: method.to_owned(),
            route: route.to_owned(),
            status,
        };
        self.requests.get_or_create(&labels).inc();
        self.request_seconds.observe(took.as_secs_f64());
    }

    /// Everything, in Prometheus' text format.
    ///
    /// # Errors
    /// Never, as long as a `String` can be written to.
    pub fn text(&self, app: &App) -> Result<String, std::fmt::Error> {
        let mut states = [
            (State::starting, SessionState::Starting, 0),
            (State::running, SessionState::Running, 0),
            (State::hibernated, SessionState::Hibernated, 0),
            (State::stopping, SessionState::Stopping, 0),
            (State::stopped, SessionState::Stopped, 0),
            (State::failed, SessionState::Failed, 0),
        ];
        let mut computes = 0;
        let mut stored = 0_u64;
        for workspace in app.ledger().state().workspaces.values() {
            computes += workspace.computes.len();
            for session in workspace.sessions.values() {
                stored = stored.saturating_add(session.stored.map_or(0, |stored| stored.bytes));
                for (_, state, count) in &mut states {
                    *count += i64::from(*state == session.state);
                }
            }
        }
        for (state, _, count) in states {
            self.sessions
                .get_or_create(&StateLabels { state })
                .set(count);
        }
        let tokens = app.sessions().tokens();
        let workers = app.sessions().workers();
        let used = workers.used();
        let number = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        let count = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.computes.set(number(computes));
        self.instances_busy.set(count(used.busy()));
        self.instances_idle.set(count(used.idle));
        self.memory.set(count(used.memory));
        self.cpu_seconds.set(used.cpu_time().as_secs_f64());
        self.throttled_seconds.set(used.throttled().as_secs_f64());
        for (counter, total) in [
            (&self.starts, used.starts),
            (&self.resumes, used.resumes),
            (&self.hibernations, used.hibernations),
            (&self.input_tokens, tokens.input),
            (&self.output_tokens, tokens.output),
        ] {
            counter.inner().store(total, Ordering::Relaxed);
        }
        for (outcome, total) in app.sessions().settings().requests.counts() {
            let outcome = outcome.as_str();
            let counter = self
                .guest_requests
                .get_or_create(&OutcomeLabels { outcome });
            counter.inner().store(total, Ordering::Relaxed);
        }
        self.start_seconds.set(used.start_time().as_secs_f64());
        self.hibernate_seconds
            .set(used.hibernate_time().as_secs_f64());
        self.hibernated_bytes.set(count(stored));
        let counts = workers.counts();
        self.workers.set(number(counts.alive));
        self.worker_restarts.set(count(counts.restarts));
        for (worker, sessions) in (0..).zip(counts.sessions) {
            self.worker_sessions
                .get_or_create(&WorkerLabels { worker })
                .set(number(sessions));
        }
        let mut text = String::new();
        encode(&mut text, &self.lock())?;
        Ok(text)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Registry> {
        self.registry
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
