//! `lithogen token`.

use domain::runner::registry::Role;
use proto::channel::call;
use proto::clock::now_ms;
use proto::join_token::{JoinToken, Secret};
use proto::v1;
use serde_json::{Value, json};

use crate::args::{Status, TokenCommand};
use crate::local;
use crate::out;
use crate::remote::Remote;

/// Makes, lists or calls back join tokens.
///
/// # Errors
/// If there is no coordinator, or it refuses.
pub async fn run(command: TokenCommand) -> anyhow::Result<()> {
    match command {
        TokenCommand::Create { uses, ttl, role, labels, remote, state, json } => {
            // Drawn here: the coordinator learns the digest only.
            let secret = Secret::draw()?;
            let request = v1::CreateTokenRequest {
                secret_digest: secret.digest().to_string(),
                role: Role::from(role).name().to_owned(),
                uses,
                ttl_ms: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX),
                labels: labels.into_iter().collect(),
            };
            let create = |remote: Remote| {
                let request = request.clone();
                async move {
                    let made = remote.registration().create_token(call(request)).await;
                    Ok(made.map_err(|status| remote.explain(&status))?.into_inner())
                }
            };
            let made = local::ask(remote.coordinator.as_deref(), &state.state, create).await?;
            show(&made, secret, json)
        }
        TokenCommand::List(args) => list(&args).await,
        TokenCommand::Revoke { id, remote, state } => {
            let revoke = |remote: Remote| {
                let request = v1::RevokeTokenRequest { id: id.clone() };
                async move {
                    let revoked = remote.registration().revoke_token(call(request)).await;
                    revoked.map_err(|status| remote.explain(&status))?;
                    Ok(())
                }
            };
            local::ask(remote.coordinator.as_deref(), &state.state, revoke).await?;
            out::line(format_args!("join token {id} is revoked; who has joined with it stays"));
            Ok(())
        }
    }
}

fn show(made: &v1::CreateTokenResponse, secret: Secret, as_json: bool) -> anyhow::Result<()> {
    let token = made.token.clone().unwrap_or_default();
    let text = JoinToken { ca: made.ca_fingerprint.parse()?, secret }.to_string();
    if as_json {
        let mut document = json!({ "schema_version": 1, "token": text, "url": made.url });
        merge(&mut document, describe(&token));
        out::line(serde_json::to_string_pretty(&document)?);
        return Ok(());
    }
    out::line(&text);
    let join = match token.role.as_str() {
        "worker" => format!("lithogen worker --coordinator {} --join-token-file token.txt", made.url),
        _ => format!("lithogen login {} --token-file token.txt", made.url),
    };
    let (id, role, uses) = (&token.id, &token.role, token.uses);
    note!("join token {id} for {uses} × {role}, ends in {}; it is not shown again", left(token.expires_ms));
    note!("on the other machine, with the line above in token.txt:\n  {join}");
    Ok(())
}

async fn list(args: &Status) -> anyhow::Result<()> {
    let fetch = |remote: Remote| async move {
        let tokens = remote.registration().list_tokens(call(v1::ListTokensRequest {})).await;
        Ok(tokens.map_err(|status| remote.explain(&status))?.into_inner().tokens)
    };
    let tokens = local::ask(args.remote.coordinator.as_deref(), &args.state.state, fetch).await?;
    if args.json {
        let tokens: Vec<Value> = tokens.iter().map(describe).collect();
        out::line(serde_json::to_string_pretty(&json!({ "schema_version": 1, "tokens": tokens }))?);
        return Ok(());
    }
    out::line(format_args!("{:<9} {:<10} {:>9}  {:<12} labels", "token", "role", "used", "ends in"));
    for token in &tokens {
        let ends = if token.revoked { "revoked".to_owned() } else { left(token.expires_ms) };
        let used = format!("{}/{}", token.used, token.uses);
        let labels = labels(&token.labels);
        let line = format!("{:<9} {:<10} {used:>9}  {ends:<12} {labels}", token.id, token.role);
        out::line(line.trim_end());
    }
    Ok(())
}

fn describe(token: &v1::JoinToken) -> Value {
    json!({
        "id": token.id, "role": token.role, "uses": token.uses, "used": token.used,
        "created_ms": token.created_ms, "expires_ms": token.expires_ms, "revoked": token.revoked,
        "labels": token.labels,
    })
}

fn merge(into: &mut Value, more: Value) {
    if let (Value::Object(into), Value::Object(more)) = (into, more) {
        into.extend(more);
    }
}

/// Labels on one line, in order.
pub fn labels(labels: &std::collections::HashMap<String, String>) -> String {
    let mut labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    labels.sort();
    labels.join(" ")
}

/// The time until a moment since 1970, for people.
pub fn left(until_ms: i64) -> String {
    let seconds = until_ms.saturating_sub(now_ms()).div_euclid(1000);
    match seconds {
        ..0 => "ended".to_owned(),
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", (seconds + 1800) / 3600),
        _ => format!("{} d", (seconds + 43_200) / 86_400),
    }
}
