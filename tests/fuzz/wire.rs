//! What comes from the network: every message, and what becomes of those that are
//! translated.

use std::fmt::Debug;

use domain::artifact::Manifest;
use domain::digest::Digest;
use domain::id::{ArtifactId, RunId, TaskKey};
use domain::resources::GpuPart;
use domain::runner::task::{Attempt, FencingToken, Grant, GrantedInput};
use domain::seed::Seed;
use domain::study::stage::{Progress, Stage};
use prost::Message;
use proto::{convert, v1};

use super::MEMORY;
use crate::mutate::Target;

/// A message is refused, or says the same when it is sent on.
fn message<M: Message + Default + PartialEq + Debug>(bytes: &[u8]) -> String {
    let message = match M::decode(bytes) {
        Ok(message) => message,
        Err(error) => return error.to_string(),
    };
    let again = M::decode(message.encode_to_vec().as_slice()).unwrap();
    // What is not a number equals nothing.
    assert!(again == message || format!("{again:?}") == format!("{message:?}"), "{again:?} {message:?}");
    format!("{} bytes", bytes.len().min(1))
}

macro_rules! messages {
    ($($name:ident)*) => {
        const MESSAGES: &[(&str, fn(&[u8]) -> String)] = &[$((stringify!($name), message::<v1::$name>)),*];
    };
}

messages! {
    FindMissingRequest FindMissingResponse GetUploadOffsetRequest GetUploadOffsetResponse PutBlobRequest
    PutBlobResponse GetBlobRequest GetBlobResponse VerifyArtifactsRequest VerifyArtifactsResponse
    CollectGarbageRequest CollectGarbageResponse SubmitRequest SubmitResponse GetRunRequest GetRunResponse
    WatchRunRequest WatchRunResponse CancelRunRequest CancelRunResponse PauseRunRequest PauseRunResponse
    ResumeRunRequest ResumeRunResponse ListRunsRequest ListRunsResponse ListWorkersRequest ListWorkersResponse
    DrainWorkerRequest DrainWorkerResponse ReadmitWorkerRequest ReadmitWorkerResponse ListTasksRequest
    ListTasksResponse ExplainTaskRequest ExplainTaskResponse ReadLogRequest ReadLogResponse SessionRequest
    SessionResponse AcquireLeasesRequest AcquireLeasesResponse EndAttemptsRequest EndAttemptsResponse
    SaveCheckpointRequest SaveCheckpointResponse AppendLogRequest AppendLogResponse CreateTokenRequest
    CreateTokenResponse ListTokensRequest ListTokensResponse RevokeTokenRequest RevokeTokenResponse EnrolRequest
    EnrolResponse RenewRequest RenewResponse RevokeIdentityRequest RevokeIdentityResponse ListIdentitiesRequest
    ListIdentitiesResponse GetServerInfoRequest GetServerInfoResponse ListMeasurementsRequest
    ListMeasurementsResponse
}

fn grant() -> Grant {
    let digest = Digest::of(b"x");
    Grant {
        task: TaskKey(digest),
        token: FencingToken(3),
        attempt: Attempt(1),
        subject: "all".to_owned(),
        stage: Stage::Report,
        version: 1,
        slots: 2,
        memory_mib: 3,
        seed: Seed(u64::MAX),
        inputs: vec![GrantedInput {
            name: "results".to_owned(),
            artifact: ArtifactId(digest),
            only: vec!["a/b".to_owned()],
        }],
        gpus: vec![GpuPart { index: 1, milli: 500 }],
        checkpoint: Some(ArtifactId(digest)),
        run: Some(RunId(digest)),
        traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned(),
    }
}

fn hello() -> v1::Hello {
    v1::Hello {
        name: "worker".to_owned(),
        slots: 2,
        stages: vec![v1::StageVersion { name: "report".to_owned(), version: 3 }],
        gpus: vec![v1::Gpu { name: "GPU".to_owned(), memory_mib: 1 << 16 }],
        labels: [("zone".to_owned(), "a".to_owned())].into(),
        ..v1::Hello::default()
    }
}

fn heartbeat() -> v1::Heartbeat {
    let values = [("loss", 0.5), ("lr", f64::MAX)].map(|(name, value)| (name.to_owned(), value));
    let attempt = v1::AttemptProgress {
        task_key: Digest::of(b"x").to_string(),
        token: 3,
        done: 1,
        total: 2,
        note: "half".to_owned(),
        values: values.into(),
    };
    v1::Heartbeat { attempts: vec![attempt] }
}

/// Every kind of field, so that what is spliced from one message fits another.
fn valid() -> Vec<Vec<u8>> {
    let manifest = Manifest::new(vec![]).unwrap();
    vec![
        v1::Lease::from(grant()).encode_to_vec(),
        hello().encode_to_vec(),
        heartbeat().encode_to_vec(),
        v1::AcquireLeasesResponse { leases: vec![v1::Lease::from(grant())] }.encode_to_vec(),
        manifest.to_bytes(),
        Digest::of(b"x").to_string().into_bytes(),
    ]
}

#[test]
fn any_message_is_refused_or_whole() {
    // The first byte says which.
    let corpus =
        (0..MESSAGES.len() as u8).flat_map(|kind| valid().into_iter().map(move |it| [&[kind], &it[..]].concat()));
    let execute = |bytes: &[u8]| {
        let Some((kind, rest)) = bytes.split_first() else { return String::new() };
        let (name, decode) = MESSAGES[usize::from(*kind) % MESSAGES.len()];
        format!("{name}: {}", decode(rest))
    };
    Target { name: "messages", executions: 20_000, memory: MEMORY, corpus: corpus.collect(), words: vec![] }
        .run(execute);
}

#[test]
fn any_lease_is_refused_or_whole() {
    let corpus = vec![v1::Lease::from(grant()).encode_to_vec()];
    let execute = |bytes: &[u8]| match v1::Lease::decode(bytes).map_err(|error| error.to_string()) {
        Ok(lease) => match Grant::try_from(lease) {
            Ok(grant) => {
                assert_eq!(Grant::try_from(v1::Lease::from(grant.clone())), Ok(grant));
                "a lease".to_owned()
            }
            Err(error) => error.to_string(),
        },
        Err(error) => error,
    };
    let words = vec![serde_json::to_string(&Stage::Report).unwrap(), "../".to_owned()];
    Target { name: "lease", executions: 10_000, memory: MEMORY, corpus, words }.run(execute);
}

#[test]
fn any_greeting_is_refused_or_an_offer_in_plain_letters() {
    let execute = |bytes: &[u8]| match v1::Hello::decode(bytes) {
        Ok(hello) => {
            let offer = convert::offer(hello);
            let plain = |text: &str| text.chars().count() <= 100 && !text.chars().any(char::is_control);
            assert!(offer.gpus.iter().all(|gpu| plain(&gpu.name)));
            assert!(offer.labels.iter().all(|(key, value)| plain(key) && plain(value)));
            format!("{:?}", (offer.stages.len().min(3), offer.gpus.len().min(3), offer.labels.len().min(3)))
        }
        Err(error) => error.to_string(),
    };
    let corpus = vec![hello().encode_to_vec()];
    Target { name: "greeting", executions: 10_000, memory: MEMORY, corpus, words: vec![] }.run(execute);
}

#[test]
fn any_heartbeat_is_refused_or_tells_what_json_can() {
    let execute = |bytes: &[u8]| {
        let heartbeat = v1::Heartbeat::decode(bytes).map_err(|error| error.to_string())?;
        let told = convert::beat(heartbeat).map_err(|error| error.to_string())?;
        for (_, _, progress) in &told {
            let again: Progress = serde_json::from_str(&serde_json::to_string(progress).unwrap()).unwrap();
            assert_eq!(again, *progress);
        }
        Ok(format!("{} attempts", told.len().min(3)))
    };
    let corpus = vec![heartbeat().encode_to_vec()];
    Target { name: "heartbeat", executions: 10_000, memory: MEMORY, corpus, words: vec![] }
        .run(|bytes| execute(bytes).unwrap_or_else(|refused: String| refused));
}

#[test]
fn any_field_is_refused_or_what_it_says() {
    let execute = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        let digest = convert::digest("x", &text).map(|digest: Digest| assert_eq!(digest.to_string(), text));
        let worker = convert::worker_id(&text).map(|id| assert_eq!(id.0, text));
        assert_eq!(convert::failure(&text, &text).message, text);
        let manifest = convert::manifest(ArtifactId(Digest::of(bytes)), bytes).map(|manifest| manifest.is_some());
        format!("{digest:?} {worker:?} {manifest:?}")
    };
    Target { name: "fields", executions: 10_000, memory: MEMORY, corpus: valid(), words: vec![] }.run(execute);
}
