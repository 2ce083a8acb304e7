//! Text that is heard while it is printed.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use flowcell_sandbox::{Limits, Listener, Stream};

use crate::{limits, pool_with, tool};

/// Logs `"fine"` three times.
const TALK: &str = "(local $n i32) (loop $l (call $log (i32.const 1) (i32.const 16) (i32.const 6)) (local.set $n (i32.add (local.get $n) (i32.const 1))) (br_if $l (i32.lt_u (local.get $n) (i32.const 3)))) (call $answer (i32.const 16) (i32.const 6))";

type Heard = Arc<Mutex<Vec<(Stream, String)>>>;

fn listener(heard: &Heard) -> Listener {
    let heard = Arc::clone(heard);
    Arc::new(move |stream, text| heard.lock().unwrap().push((stream, text.to_owned())))
}

#[tokio::test]
async fn a_listener_hears_what_is_printed_piece_by_piece() {
    let pool = pool_with(&tool(TALK), limits());
    let heard = Heard::default();
    let mut lease = pool.checkout(Duration::from_secs(60)).await.unwrap();
    lease.listen(Some(listener(&heard)));
    let call = lease.invoke("any", "{}".to_owned()).await;
    let line = (Stream::Log, "info: \"fine\"\n".to_owned());
    assert_eq!(*heard.lock().unwrap(), vec![line; 3]);
    assert_eq!(call.logs.log, "info: \"fine\"\n".repeat(3));

    lease.listen(None);
    let call = lease.invoke("any", "{}".to_owned()).await;
    assert_eq!(call.logs.log, "info: \"fine\"\n".repeat(3));
    assert_eq!(heard.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn a_listener_hears_no_more_than_the_logs_hold() {
    let limits = Limits {
        log: 20,
        ..limits()
    };
    let pool = pool_with(&tool(TALK), limits);
    let heard = Heard::default();
    let mut lease = pool.checkout(Duration::from_secs(60)).await.unwrap();
    lease.listen(Some(listener(&heard)));
    let call = lease.invoke("any", "{}".to_owned()).await;
    let heard: String = std::mem::take(&mut *heard.lock().unwrap())
        .into_iter()
        .map(|(_, text)| text)
        .collect();
    assert_eq!(heard, call.logs.log);
    assert!(heard.contains("19 more bytes"), "{heard}");
}

#[tokio::test]
async fn a_listener_does_not_outlive_its_lease() {
    let pool = pool_with(&tool(TALK), limits());
    let heard = Heard::default();
    let mut lease = pool.checkout(Duration::from_secs(60)).await.unwrap();
    lease.listen(Some(listener(&heard)));
    let id = lease.id();
    drop(lease);
    let mut lease = pool.checkout(Duration::from_secs(60)).await.unwrap();
    assert_eq!(lease.id(), id);
    lease
        .invoke("any", "{}".to_owned())
        .await
        .result
        .unwrap()
        .unwrap();
    assert!(heard.lock().unwrap().is_empty());
    assert_eq!(Arc::strong_count(&heard), 1);
}
