//! How much a workspace and a user may have.

use std::fmt;

use serde::Serialize;

use crate::compute::Resources;
use crate::name::UserName;
use crate::state::Workspace;

/// The most that a workspace, or one user in it, may have at once.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Quota {
    /// Sessions that are not stopped.
    pub sessions: u64,
    /// Computes, stopped ones included.
    pub computes: u64,
    /// Resources of the computes that are not stopped.
    #[serde(flatten)]
    pub resources: Resources,
}

/// The quotas that are in force.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Quotas {
    /// For each workspace.
    pub workspace: Quota,
    /// For each user in a workspace.
    pub user: Quota,
}

impl Default for Quotas {
    fn default() -> Self {
        Self {
            workspace: Quota {
                sessions: 1_000,
                computes: 1_000,
                resources: Resources {
                    memory_mib: 512 << 10,
                    cpu_millis: 1_000_000,
                    instances: 8_000,
                },
            },
            user: Quota {
                sessions: 100,
                computes: 100,
                resources: Resources {
                    memory_mib: 64 << 10,
                    cpu_millis: 100_000,
                    instances: 1_000,
                },
            },
        }
    }
}

/// What is used of a quota.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Used {
    /// Sessions.
    pub sessions: u64,
    /// Computes.
    pub computes: u64,
    /// Resources.
    #[serde(flatten)]
    pub resources: Resources,
}

impl Used {
    /// What a workspace has, or what one user has in it.
    pub fn of(workspace: &Workspace, user: Option<&UserName>) -> Self {
        match user {
            None => workspace.used,
            Some(user) => workspace.used_by.get(user).copied().unwrap_or_default(),
        }
    }

    /// What is free of a quota.
    #[must_use]
    pub fn free(&self, quota: &Quota) -> Self {
        Self {
            sessions: quota.sessions.saturating_sub(self.sessions),
            computes: quota.computes.saturating_sub(self.computes),
            resources: quota.resources.minus(&self.resources),
        }
    }
}

impl fmt::Display for Used {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} sessions, {} computes, {}",
            self.sessions, self.computes, self.resources
        )
    }
}

/// A request that a quota does not allow.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error(
    "the quota of {whose} is too small for this: wanted are {wanted}; in use are {used}; free are {free}"
)]
pub struct QuotaExceeded {
    /// "workspace NAME" or "user NAME in workspace NAME".
    pub whose: String,
    /// What the request needs.
    pub wanted: Used,
    /// What is in use.
    pub used: Used,
    /// What is free.
    pub free: Used,
}

/// Checks a wish against the quotas of the workspace and of the user.
///
/// # Errors
/// The first quota that does not allow it.
pub fn check(
    quotas: &Quotas,
    workspace: &Workspace,
    user: &UserName,
    wanted: Used,
) -> Result<(), QuotaExceeded> {
    let name = &workspace.record.name;
    let scopes = [
        (format!("workspace {name}"), None, &quotas.workspace),
        (
            format!("user {user} in workspace {name}"),
            Some(user),
            &quotas.user,
        ),
    ];
    for (whose, user, quota) in scopes {
        let used = Used::of(workspace, user);
        let free = used.free(quota);
        let fits = wanted.sessions <= free.sessions
            && wanted.computes <= free.computes
            && wanted.resources.fits(&free.resources);
        if !fits {
            return Err(QuotaExceeded {
                whose,
                wanted,
                used,
                free,
            });
        }
    }
    Ok(())
}
