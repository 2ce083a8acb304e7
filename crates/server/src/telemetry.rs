//! Traces for an OTLP receiver: of what the server does, and of calls.

use std::sync::Arc;

use flowcell_session::{CallTrace, TraceListener};
use flowcell_worker::{SpanKind, SpanStatus, TraceSpan};
use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind as OtelKind, Status, TraceFlags, TraceId, TraceState,
    TracerProvider as _,
};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, IdGenerator as _, RandomIdGenerator, SdkTracerProvider,
    SpanData, SpanEvents, SpanLinks, SpanProcessor as _,
};
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::registry::LookupSpan;

/// Spans of calls that wait to be sent; what comes beyond is not.
const WAITING: usize = 1 << 16;

/// Sends spans to a receiver; what is left goes out at [`Traces::finish`].
#[derive(Debug)]
pub struct Traces {
    provider: SdkTracerProvider,
    calls: Arc<BatchSpanProcessor>,
}

impl Traces {
    /// Sends to the receiver at this base address (`http://host:4318`), over HTTP.
    ///
    /// # Errors
    /// When the address is none.
    pub fn to(endpoint: &str) -> Result<Self, ExporterBuildError> {
        let exporter = || {
            SpanExporter::builder()
                .with_http()
                .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
                .build()
        };
        let resource = Resource::builder().with_service_name("flowcell").build();
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter()?)
            .with_resource(resource.clone())
            .build();
        let config = BatchConfigBuilder::default().with_max_queue_size(WAITING);
        let mut calls = BatchSpanProcessor::builder(exporter()?)
            .with_batch_config(config.build())
            .build();
        calls.set_resource(&resource);
        Ok(Self {
            provider,
            calls: Arc::new(calls),
        })
    }

    /// The layer that hears the server's spans.
    pub fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        tracing_opentelemetry::layer().with_tracer(self.provider.tracer("flowcell"))
    }

    /// Who hears of calls.
    pub fn listener(&self) -> TraceListener {
        let calls = Arc::clone(&self.calls);
        Arc::new(move |call| {
            for span in spans(call) {
                calls.on_end(span);
            }
        })
    }

    /// Sends what is left.
    pub fn finish(&self) {
        for ended in [self.calls.shutdown(), self.provider.shutdown()] {
            if let Err(error) = ended {
                tracing::warn!(%error, "the last traces could not be sent");
            }
        }
    }
}

/// A call's spans as OpenTelemetry has them.
fn spans(call: &CallTrace) -> Vec<SpanData> {
    let scope = InstrumentationScope::builder("flowcell")
        .with_version(env!("CARGO_PKG_VERSION"))
        .build();
    let ids = RandomIdGenerator::default();
    let mut known: Vec<SpanId> = Vec::with_capacity(call.trace.spans.len());
    let mut spans = Vec::with_capacity(call.trace.spans.len());
    for span in &call.trace.spans {
        let id = ids.new_span_id();
        let above = span.parent.and_then(|parent| known.get(parent).copied());
        let remote = call
            .parent
            .map(SpanId::from)
            .filter(|_| span.parent.is_none());
        known.push(id);
        let flags = TraceFlags::SAMPLED;
        let trace = TraceId::from(call.id);
        let mut attributes = attributes(span);
        if span.parent.is_none() {
            attributes.extend([
                KeyValue::new("flowcell.session", call.session.to_string()),
                KeyValue::new("flowcell.flow", call.flow.to_string()),
                KeyValue::new("flowcell.call", call.call.clone()),
            ]);
        }
        spans.push(SpanData {
            span_context: SpanContext::new(trace, id, flags, false, TraceState::default()),
            parent_span_id: above.or(remote).unwrap_or(SpanId::INVALID),
            parent_span_is_remote: remote.is_some(),
            span_kind: match span.kind {
                SpanKind::Flow => OtelKind::Server,
                SpanKind::Model => OtelKind::Client,
                SpanKind::Node | SpanKind::Function => OtelKind::Internal,
            },
            name: span.name.clone().into(),
            start_time: span.started,
            end_time: span.started + span.duration,
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: match (span.status, &span.error) {
                (SpanStatus::Error, why) => Status::error(why.clone().unwrap_or_default()),
                (SpanStatus::Ok, _) => Status::Ok,
                (SpanStatus::Bypassed | SpanStatus::Canceled, _) => Status::Unset,
            },
            instrumentation_scope: scope.clone(),
        });
    }
    spans
}

fn attributes(span: &TraceSpan) -> Vec<KeyValue> {
    let attributes: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(&span.attributes).unwrap_or_default();
    let attributes = attributes.into_iter().map(|(name, value)| {
        let value: Value = match value {
            serde_json::Value::Bool(value) => value.into(),
            serde_json::Value::String(value) => value.into(),
            serde_json::Value::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(whole), _) => whole.into(),
                (None, Some(float)) => float.into(),
                (None, None) => number.to_string().into(),
            },
            other => other.to_string().into(),
        };
        KeyValue::new(name, value)
    });
    attributes.collect()
}
