//! Wire to domain and back. Whatever decodes is valid: a field that is missing
//! or out of range is refused by name.

use std::str::FromStr;

use std::collections::BTreeMap;

use domain::artifact::Manifest;
use domain::digest::{Digest, InvalidDigest};
use domain::id::{ArtifactId, TaskKey};
use domain::resources::{self, Gpu, GpuPart, Offer};
use domain::runner::task::{Attempt, FencingToken, Grant, GrantedInput, WorkerId};
use domain::seed::Seed;
use domain::study::plan::rates::Measurement;
use domain::study::stage::{Failure, FailureCode, Progress, Stage};
use domain::text::cut;
use serde_json::from_str;

use crate::v1;

/// Bytes that are kept of a name, a label or a note.
pub const NAME_MAX: usize = 200;

/// Most slots of one worker; what it offers beyond is not used.
pub const SLOTS_MAX: u32 = 1024;

/// Stages, and GPUs, of one worker that are looked at.
const OFFERED_MAX: usize = 256;

/// Attempts that one heartbeat tells of.
const BEAT_MAX: usize = SLOTS_MAX as usize;

/// Most leases that one call asks for and is answered with.
pub const LEASES_MAX: u32 = 256;

/// Ends that one call tells of.
const ENDS_MAX: usize = 256;

/// A field of a message that is missing or out of range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct InvalidField {
    /// The field's name in the `.proto` file.
    pub field: &'static str,
    pub problem: String,
}

/// An error about a field of a message.
pub fn invalid(field: &'static str, problem: impl ToString) -> InvalidField {
    InvalidField { field, problem: problem.to_string() }
}

/// Reads a digest, or a name that is one, from its 64 digits.
///
/// # Errors
/// Names the field.
pub fn digest<T: FromStr<Err = InvalidDigest>>(field: &'static str, text: &str) -> Result<T, InvalidField> {
    text.parse().map_err(|error| invalid(field, error))
}

/// A fencing token; 0 is none.
///
/// # Errors
/// If it is 0.
pub fn token(number: u64) -> Result<FencingToken, InvalidField> {
    match number {
        0 => Err(invalid("token", "is missing")),
        number => Ok(FencingToken(number)),
    }
}

/// A worker's name for itself: 1 to 100 printable characters.
///
/// # Errors
/// If it is empty, too long or not printable.
pub fn worker_id(text: &str) -> Result<WorkerId, InvalidField> {
    match text.len() {
        1..=100 if text.chars().all(|c| c.is_ascii_graphic()) => Ok(WorkerId(text.to_owned())),
        _ => Err(invalid("worker_id", "has to be 1 to 100 printable characters")),
    }
}

/// A name or a note for people: control characters are left out, and what is longer
/// than [`NAME_MAX`] is cut.
pub fn plain(text: &str) -> String {
    // What is cut away need not be looked at.
    let looked_at = &text[..text.floor_char_boundary(16 * NAME_MAX)];
    if looked_at.contains(char::is_control) {
        cut(&looked_at.replace(char::is_control, ""), NAME_MAX)
    } else {
        cut(text, NAME_MAX)
    }
}

/// What a heartbeat tells.
///
/// # Errors
/// If it tells of more attempts than a worker can have, or one is malformed.
pub fn beat(heartbeat: v1::Heartbeat) -> Result<Vec<(TaskKey, FencingToken, Progress)>, InvalidField> {
    few("attempts", heartbeat.attempts.len(), BEAT_MAX)?;
    let progress = |attempt: v1::AttemptProgress| {
        let progress = Progress {
            done: attempt.done,
            total: attempt.total,
            note: plain(&attempt.note),
            values: attempt.values.into(),
        };
        Ok((digest("task_key", &attempt.task_key)?, token(attempt.token)?, progress))
    };
    heartbeat.attempts.into_iter().map(progress).collect()
}

/// The ends that one call tells of.
///
/// # Errors
/// If they are too many.
pub fn ends(request: v1::EndAttemptsRequest) -> Result<Vec<v1::AttemptEnd>, InvalidField> {
    few("attempts", request.attempts.len(), ENDS_MAX)?;
    Ok(request.attempts)
}

fn few(field: &'static str, count: usize, most: usize) -> Result<(), InvalidField> {
    if count > most {
        Err(invalid(field, format!("{count} of them; at most {most} come in one message")))
    } else {
        Ok(())
    }
}

/// A failure as a worker reports it. A code that this version does not know
/// counts as internal; a message that is too long is cut.
pub fn failure(code: &str, message: &str) -> Failure {
    let known = FailureCode::ALL.into_iter().find(|known| known.name() == code);
    Failure::new(known.unwrap_or(FailureCode::Internal), message)
}

/// A manifest that came with its digest; `None` if only the digest did.
///
/// # Errors
/// If it is no manifest, or not the one that the digest names.
pub fn manifest(artifact: ArtifactId, bytes: &[u8]) -> Result<Option<Manifest>, InvalidField> {
    if bytes.is_empty() {
        return Ok(None);
    }
    if Digest::of(bytes) != artifact.0 {
        return Err(invalid("manifest", "is not the one that `artifact` names"));
    }
    Manifest::from_bytes(bytes).map(Some).map_err(|error| invalid("manifest", error))
}

/// What a worker has, from its greeting, as far as it is used: see the message.
pub fn offer(hello: v1::Hello) -> Offer {
    let stage = |stage: v1::StageVersion| (plain(&stage.name), stage.version);
    let gpu = |gpu: v1::Gpu| Gpu { name: plain(&gpu.name), memory_mib: gpu.memory_mib };
    // In the order of their keys: the first are the same at each greeting.
    let labels: BTreeMap<String, String> = hello.labels.into_iter().collect();
    Offer {
        stages: hello.stages.into_iter().take(OFFERED_MAX).map(stage).collect(),
        slots: hello.slots.min(SLOTS_MAX),
        gpus: hello.gpus.into_iter().take(OFFERED_MAX).map(gpu).collect(),
        memory_mib: hello.memory_mib,
        labels: labels.iter().take(resources::LABELS_MAX).map(|(key, value)| (plain(key), plain(value))).collect(),
    }
}

impl From<Gpu> for v1::Gpu {
    fn from(gpu: Gpu) -> Self {
        v1::Gpu { name: gpu.name, memory_mib: gpu.memory_mib }
    }
}

impl From<Measurement> for v1::Measurement {
    fn from(Measurement { stage, flop, seconds }: Measurement) -> Self {
        Self { stage: stage.name().to_owned(), flop, seconds }
    }
}

impl TryFrom<v1::Measurement> for Measurement {
    type Error = InvalidField;

    fn try_from(v1::Measurement { stage, flop, seconds }: v1::Measurement) -> Result<Self, InvalidField> {
        Ok(Self { stage: stage.parse().map_err(|error| invalid("stage", error))?, flop, seconds })
    }
}

impl From<Grant> for v1::Lease {
    fn from(grant: Grant) -> Self {
        let input = |input: GrantedInput| v1::LeaseInput {
            name: input.name,
            artifact: input.artifact.to_string(),
            only: input.only,
        };
        v1::Lease {
            task_key: grant.task.to_string(),
            token: grant.token.0,
            attempt: grant.attempt.0,
            subject: grant.subject,
            stage_json: serde_json::to_string(&grant.stage).unwrap_or_default(),
            seed: grant.seed.0,
            inputs: grant.inputs.into_iter().map(input).collect(),
            gpus: grant.gpus.into_iter().map(|part| v1::GpuPart { index: part.index, milli: part.milli }).collect(),
            checkpoint: grant.checkpoint.map_or_else(String::new, |checkpoint| checkpoint.to_string()),
            stage_version: grant.version,
            slots: grant.slots,
            memory_mib: grant.memory_mib,
            run_id: grant.run.map_or_else(String::new, |run| run.to_string()),
            traceparent: grant.traceparent,
        }
    }
}

impl TryFrom<v1::Lease> for Grant {
    type Error = InvalidField;

    fn try_from(lease: v1::Lease) -> Result<Self, InvalidField> {
        let input = |input: v1::LeaseInput| {
            let plain = !input.name.is_empty() && !input.name.contains(['/', '\\', '\0']) && input.name != "..";
            if !plain || input.name == "." {
                return Err(invalid("inputs.name", format!("{:?} is no plain name", input.name)));
            }
            let artifact = digest("inputs.artifact", &input.artifact)?;
            Ok(GrantedInput { name: input.name, artifact, only: input.only })
        };
        let stage: Stage = from_str(&lease.stage_json).map_err(|error| invalid("stage_json", error))?;
        Ok(Grant {
            task: digest("task_key", &lease.task_key)?,
            token: token(lease.token)?,
            attempt: match lease.attempt {
                0 => return Err(invalid("attempt", "is missing")),
                number => Attempt(number),
            },
            subject: lease.subject,
            version: match lease.stage_version {
                0 => stage.kind().version(),
                version => version,
            },
            slots: lease.slots.max(1),
            memory_mib: lease.memory_mib,
            stage,
            seed: Seed(lease.seed),
            inputs: lease.inputs.into_iter().map(input).collect::<Result<_, _>>()?,
            gpus: lease.gpus.into_iter().map(|part| GpuPart { index: part.index, milli: part.milli }).collect(),
            checkpoint: match lease.checkpoint.as_str() {
                "" => None,
                text => Some(digest("checkpoint", text)?),
            },
            run: match lease.run_id.as_str() {
                "" => None,
                text => Some(digest("run_id", text)?),
            },
            traceparent: lease.traceparent,
        })
    }
}

#[cfg(test)]
mod tests {
    use domain::id::RunId;
    use domain::study::stage::StageKind;
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    fn grant() -> Grant {
        Grant {
            task: TaskKey(Digest::of(b"task")),
            token: FencingToken(3),
            attempt: Attempt(1),
            subject: "all".to_owned(),
            stage: Stage::Report,
            version: 7,
            slots: 2,
            memory_mib: 1024,
            seed: Seed(u64::MAX),
            inputs: vec![GrantedInput {
                name: "results".to_owned(),
                artifact: ArtifactId(Digest::of(b"artifact")),
                only: vec!["a/b".to_owned()],
            }],
            gpus: vec![GpuPart { index: 1, milli: 500 }],
            checkpoint: Some(ArtifactId(Digest::of(b"checkpoint"))),
            run: Some(RunId(Digest::of(b"run"))),
            traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned(),
        }
    }

    #[test]
    fn a_grant_round_trips() {
        assert_eq!(Grant::try_from(v1::Lease::from(grant())), Ok(grant()));
    }

    #[test]
    fn each_missing_or_wrong_field_is_refused_by_name() {
        let refused = |spoil: fn(&mut v1::Lease)| {
            let mut lease = v1::Lease::from(grant());
            spoil(&mut lease);
            Grant::try_from(lease).unwrap_err().field
        };
        assert_eq!(refused(|lease| lease.task_key.clear()), "task_key");
        assert_eq!(refused(|lease| lease.token = 0), "token");
        assert_eq!(refused(|lease| lease.attempt = 0), "attempt");
        assert_eq!(refused(|lease| lease.stage_json = "{}".to_owned()), "stage_json");
        assert_eq!(refused(|lease| lease.inputs[0].artifact.push('0')), "inputs.artifact");
        assert_eq!(refused(|lease| lease.inputs[0].name = "../x".to_owned()), "inputs.name");
        assert_eq!(refused(|lease| lease.checkpoint.push('0')), "checkpoint");
        assert!(worker_id("").is_err() && worker_id(&"x".repeat(101)).is_err() && worker_id("a b").is_err());
        assert_eq!(failure("from the future", "").code, FailureCode::Internal);
    }

    #[test]
    fn what_a_worker_says_of_itself_is_kept_to_stated_numbers() {
        let huge = "x".repeat(1000);
        let kept = format!("{}… [cut: 1000 bytes in all]", "x".repeat(NAME_MAX - 28));
        let stage = |number| v1::StageVersion { name: huge.clone(), version: number };
        let label = |number: u32| (format!("{number:03}{huge}"), huge.clone());
        let offer = offer(v1::Hello {
            slots: u32::MAX,
            stages: (0..300).map(stage).collect(),
            gpus: vec![v1::Gpu { name: huge.clone(), memory_mib: 1 }; 300],
            labels: (0..100).map(label).collect(),
            ..v1::Hello::default()
        });
        assert_eq!((offer.slots, offer.stages.len(), offer.gpus.len(), offer.labels.len()), (1024, 256, 256, 64));
        assert_eq!(offer.gpus[0].name, kept);
        assert!(offer.stages.iter().all(|(name, _)| *name == kept));
        let (first, last) = (offer.labels.keys().next().unwrap(), offer.labels.keys().next_back().unwrap());
        assert!(first.starts_with("000x") && last.starts_with("063x") && offer.labels[first] == kept);
        assert!(offer.labels.keys().all(|key| key.len() <= NAME_MAX));
    }

    #[test]
    fn a_name_has_no_control_characters() {
        assert_eq!(plain("\u{1b}[31mred\u{9b}0m\r\n"), "[31mred0m");
        assert_eq!(plain(&"\u{1b}".repeat(1 << 20)), "");
    }

    #[test]
    fn a_message_that_tells_of_too_much_is_refused() {
        let attempt = v1::AttemptProgress { task_key: Digest::of(b"").to_string(), token: 1, ..Default::default() };
        let told = |count| beat(v1::Heartbeat { attempts: vec![attempt.clone(); count] }).map(|told| told.len());
        assert_eq!(told(1024), Ok(1024));
        assert_eq!(told(1025).unwrap_err().to_string(), "attempts: 1025 of them; at most 1024 come in one message");
        let ended = |count| ends(v1::EndAttemptsRequest { attempts: vec![v1::AttemptEnd::default(); count] });
        assert_eq!(ended(256).unwrap().len(), 256);
        assert_eq!(ended(257).unwrap_err().field, "attempts");
    }

    #[test]
    fn of_values_only_those_are_kept_that_are_finite_few_and_plainly_named() {
        let kept = |values: Vec<(String, f64)>| {
            let task_key = Digest::of(b"").to_string();
            let values = values.into_iter().collect();
            let attempt = v1::AttemptProgress { task_key, token: 1, values, ..Default::default() };
            let mut told = beat(v1::Heartbeat { attempts: vec![attempt] }).unwrap();
            BTreeMap::from(told.remove(0).2.values)
        };
        let odd = ["", "a b", "\u{1b}[2J", &"x".repeat(1 << 20)].map(|name| (name.to_owned(), 1.0));
        let endless = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY].map(|value| (format!("{value}"), value));
        let loss = [("loss".to_owned(), 0.5)];
        assert_eq!(kept([&odd[..], &endless, &loss].concat()), loss.into());
        let many = |count: u32| (0..count).map(|number| (format!("{number:05}"), f64::from(number))).collect();
        assert_eq!(kept(many(10_000)), kept(many(16)));
        assert_eq!(kept(many(16)).len(), 16);
    }

    #[test]
    fn a_lease_of_an_older_coordinator_is_of_this_versions_stage() {
        let old = v1::Lease { stage_version: 0, slots: 0, memory_mib: 0, ..grant().into() };
        let read = Grant::try_from(old).unwrap();
        assert_eq!((read.version, read.slots, read.memory_mib), (StageKind::Report.version(), 1, 0));
    }

    #[test]
    fn a_manifest_has_to_be_the_one_that_is_named() {
        let whole = Manifest::new(vec![]).unwrap();
        assert_eq!(manifest(whole.id(), &whole.to_bytes()), Ok(Some(whole.clone())));
        assert_eq!(manifest(whole.id(), &[]), Ok(None));
        assert_eq!(manifest(ArtifactId(Digest::of(b"other")), &whole.to_bytes()).unwrap_err().field, "manifest");
        assert_eq!(manifest(ArtifactId(Digest::of(b"{}")), b"{}").unwrap_err().field, "manifest");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever bytes come, they are no message, or refused, or a lease that is
        /// what it says when it is sent on.
        #[test]
        fn any_bytes_are_refused_or_a_lease(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            is_refused_or_whole(&bytes);
        }

        #[test]
        fn an_altered_lease_is_refused_or_a_lease(
            places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            length in any::<prop::sample::Index>(),
            cut in prop::bool::weighted(0.2),
        ) {
            let mut bytes = v1::Lease::from(grant()).encode_to_vec();
            for (place, byte) in places {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            if cut {
                bytes.truncate(length.index(bytes.len()));
            }
            is_refused_or_whole(&bytes);
        }

        #[test]
        fn any_text_of_a_field_is_refused_or_what_it_says(text in any::<String>(), number in any::<u64>()) {
            prop_assert!(digest("x", &text).map_or(true, |digest: Digest| digest.to_string() == text));
            prop_assert!(worker_id(&text).map_or(true, |id| id.0 == text));
            prop_assert!(token(number).map_or(number == 0, |token| token.0 == number));
            prop_assert_eq!(failure(&text, &text).message, text);
        }

        #[test]
        fn any_manifest_is_refused_or_has_plain_paths_only(path in "\\PC{0,8}|(\\.|/|\\.\\.|a|b){1,5}", size in any::<u64>()) {
            let entry = serde_json::json!({ "path": path, "digest": Digest::of(b"x"), "size": size });
            let bytes = serde_json::json!([entry]).to_string().into_bytes();
            if let Ok(Some(manifest)) = manifest(ArtifactId(Digest::of(&bytes)), &bytes) {
                for entry in manifest.entries() {
                    let parts = std::path::Path::new(&entry.path).components();
                    prop_assert!(parts.into_iter().all(|part| matches!(part, std::path::Component::Normal(_))));
                }
            }
        }
    }

    fn is_refused_or_whole(bytes: &[u8]) {
        if let Ok(grant) = v1::Lease::decode(bytes).map_err(drop).and_then(|lease| Grant::try_from(lease).map_err(drop))
        {
            assert_eq!(Grant::try_from(v1::Lease::from(grant.clone())), Ok(grant));
        }
    }
}
