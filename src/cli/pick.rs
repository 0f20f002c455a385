//! Which service is meant.

use super::args::Whose;
use super::client::Client;
use super::exit::{Exit, Failure};
use crate::units::ServiceName;
use crate::wire::api;

/// The agent and the service that are meant: the named one, or the only one.
pub(super) async fn pick(whose: Whose) -> Result<(Client, String), Failure> {
    let client = Client::new(whose.agent.socket);
    if let Some(name) = whose.service {
        // Checked here, too, so that no name can mean another path of the API.
        let name: ServiceName = name.parse().map_err(|error| Failure::told(Exit::Usage, format!("{error}")))?;
        return Ok((client, name.to_string()));
    }
    let status: api::Status = client.get("/v1/status").await?;
    only(status).map(|name| (client, name))
}

fn only(status: api::Status) -> Result<String, Failure> {
    let mut names: Vec<String> = status.services.into_iter().map(|service| service.name).collect();
    match names.len() {
        1 => Ok(names.remove(0)),
        0 => Err(Failure::told(Exit::Unchanged, "this agent runs no service")),
        _ => {
            let said = format!("which service? this agent runs {}: name one with -s", names.join(", "));
            Err(Failure::told(Exit::Usage, said))
        }
    }
}

/// The refusal of a name that the agent does not know.
pub(super) fn no_such(name: &str, known: &[String]) -> Failure {
    Failure::told(Exit::Unchanged, format!("service {name:?} does not exist: this agent runs {}", known.join(", ")))
}
