//! What only SSH connections say.

use super::{list, value};
use crate::policy::load::shape::{SshTable, UpstreamTable};
use crate::policy::load::value::LoginMethod;
use crate::policy::rule::{SshAuth, SshRules, SshUpstream, VALIDITY_DEFAULT};

/// `ssh = { … }` of a connection.
pub(super) fn rules(table: Option<SshTable>) -> SshRules {
    let Some(table) = table else {
        return SshRules::default();
    };
    let default = SshRules::default();
    SshRules {
        interactive: value(table.interactive).unwrap_or(default.interactive),
        agent_forwarding: value(table.agent_forwarding).unwrap_or(default.agent_forwarding),
        x11: value(table.x11).unwrap_or(default.x11),
        env: table.env.map_or(default.env, |env| list(Some(env), |glob| glob.0)),
        home: value(table.home).map(|folder| folder.0),
        token: value(table.token).map(|name| name.0),
        mask_downloads: value(table.mask_downloads).unwrap_or(default.mask_downloads),
    }
}

/// Takes what is SSH's out of an `upstream` table.
pub(super) fn upstream(mut table: UpstreamTable) -> (SshUpstream, UpstreamTable) {
    let method = table.auth.as_ref().map_or(LoginMethod::Key, |auth| *auth.get_ref());
    let auth = match method {
        // PostgreSQL's; `check` has seen that it is not on an SSH connection.
        LoginMethod::Key | LoginMethod::PassThrough => SshAuth::Key,
        LoginMethod::Password => SshAuth::Password,
        // `check` has seen that it is there.
        LoginMethod::Certificate => SshAuth::Certificate {
            certificate: value(table.certificate.take()).map(|name| name.0).unwrap_or_default(),
        },
        LoginMethod::Authority => SshAuth::Authority {
            principals: list(table.principals.take(), |name| name.0),
            validity: value(table.validity.take()).map_or(VALIDITY_DEFAULT, |time| time.0),
        },
        LoginMethod::Agent => {
            SshAuth::Agent { socket: value(table.agent.take()).map(|path| path.0).unwrap_or_default() }
        }
    };
    let ssh = SshUpstream {
        auth,
        host_keys: list(table.host_keys.take(), |key| key.0),
        host_ca: list(table.host_ca.take(), |key| key.0),
        known_hosts: value(table.known_hosts.take()).map(|path| path.0),
    };
    (ssh, table)
}
