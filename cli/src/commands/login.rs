//! `lithogen login`.

use proto::identity::Identity;

use crate::args::Login;
use crate::exit::{self, Problem};
use crate::identities::{explain, folder, read_token};

/// Joins a coordinator and keeps the identity for later commands.
///
/// # Errors
/// If the token is none, or the coordinator is away or refuses.
pub async fn run(args: &Login) -> anyhow::Result<()> {
    let Some(folder) = folder(&args.coordinator)? else {
        let message = format!("{} needs no login; it is for https:// addresses", args.coordinator);
        return Err(Problem::new(exit::USAGE, message).into());
    };
    let token = read_token(&args.token_file)?;
    let name = args.name.clone().or_else(|| std::env::var("USER").ok()).unwrap_or_else(|| "somebody".to_owned());
    let identity = Identity::join(&args.coordinator, &token, &name, &folder).await.map_err(|error| explain(&error))?;
    note!("joined {} as {}", args.coordinator, identity.id);
    note!("next: lithogen status --coordinator {}", args.coordinator);
    Ok(())
}
