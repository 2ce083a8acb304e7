//! A workspace's `identity` in the form of `az ml workspace update`: what it shall be, all of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use flowcell_session::machine::Refusal;
use flowcell_session::{IdentityKind, Name, WantedIdentities, Workspace};
use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

/// The kinds of identities that a workspace has, as Azure names them.
const KINDS: &str = "'system_assigned', 'user_assigned', 'system_assigned,user_assigned' or 'none'";

/// What identities a workspace shall have. Those that are not there are made; those that are there and not named here are
/// deleted, unless they hold credentials, which is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct IdentityUpdate {
    /// `system_assigned`, `user_assigned`, `system_assigned,user_assigned` or `none`.
    #[serde(rename = "type")]
    #[schema(example = "system_assigned,user_assigned")]
    pub kind: String,
    /// By name or resource identifier, whose last part is the name: nothing, or a `client_id` that it shall have. Also as a
    /// list of objects with `resource_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<BTreeMap<String, UserAssigned>>)]
    pub user_assigned_identities: Option<UserAssignedIdentities>,
    /// Azure's; nothing here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal_id: Option<String>,
    /// Azure's; nothing here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<String>,
}

/// A user-assigned identity.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UserAssigned {
    /// The client identifier; of a new identity, that it shall have, and of one that is there, that it must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// Azure's; nothing here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal_id: Option<String>,
    /// The name or resource identifier, where it is not the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_id: Option<String>,
}

/// User-assigned identities, from a map by name or a list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct UserAssignedIdentities(pub Vec<UserAssigned>);

impl<'de> Deserialize<'de> for UserAssignedIdentities {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = UserAssignedIdentities;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter
                    .write_str("a map by name or resource identifier, or a list with resource_id")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut identities = Vec::new();
                while let Some(key) = map.next_key::<String>()? {
                    let one: Option<UserAssigned> = map.next_value()?;
                    identities.push(UserAssigned {
                        resource_id: Some(key),
                        ..one.unwrap_or_default()
                    });
                }
                Ok(UserAssignedIdentities(identities))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut identities = Vec::new();
                while let Some(one) = list.next_element::<UserAssigned>()? {
                    if one.resource_id.is_none() {
                        return Err(A::Error::missing_field("resource_id"));
                    }
                    identities.push(one);
                }
                Ok(UserAssignedIdentities(identities))
            }
        }

        deserializer.deserialize_any(Either)
    }
}

impl IdentityUpdate {
    /// What is wanted.
    ///
    /// # Errors
    /// When the kind is none, contradicts the list, or two identifiers have the same name.
    pub(crate) fn wanted(&self) -> Result<WantedIdentities, Refusal> {
        let invalid = |problem: String| Refusal::Invalid {
            field: "identity",
            problem,
        };
        // Azure takes its own spelling as well, and space around the comma.
        let kinds: BTreeSet<String> = self
            .kind
            .split(',')
            .map(|kind| kind.trim().to_ascii_lowercase().replace('_', ""))
            .collect();
        let (system, user) = (
            kinds.contains("systemassigned"),
            kinds.contains("userassigned"),
        );
        let known = usize::from(system) + usize::from(user);
        let is_none = kinds.len() == 1 && kinds.contains("none");
        if !is_none && known != kinds.len() {
            return Err(invalid(format!("its type is {KINDS}")));
        }
        let listed = self.user_assigned_identities.iter().flat_map(|all| &all.0);
        let mut user_assigned = BTreeMap::new();
        for one in listed {
            let id = one.resource_id.as_deref().unwrap_or_default();
            let last = id.trim_end_matches('/').rsplit('/').next();
            let name = Name::new(last.unwrap_or_default()).map_err(|error| {
                invalid(format!(
                    "user_assigned_identities: {error}; a resource identifier ends with such a name"
                ))
            })?;
            if user_assigned.contains_key(&name) {
                return Err(invalid(format!(
                    "user_assigned_identities: two have the name '{name}', which is the last part of a resource identifier"
                )));
            }
            user_assigned.insert(name, one.client_id.clone());
        }
        if user && user_assigned.is_empty() {
            return Err(invalid(
                "user_assigned_identities: its type has user_assigned, and none is named"
                    .to_owned(),
            ));
        }
        if !user && !user_assigned.is_empty() {
            return Err(invalid(
                "user_assigned_identities: its type must have user_assigned for them".to_owned(),
            ));
        }
        Ok(WantedIdentities {
            system,
            user_assigned,
        })
    }
}

/// What identities a workspace has, in Azure's form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkspaceIdentityView {
    /// `system_assigned`, `user_assigned`, `system_assigned,user_assigned` or `none`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The client identifier of the workspace's own identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// The others, by name.
    #[schema(value_type = BTreeMap<String, UserAssigned>)]
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub user_assigned_identities: BTreeMap<Name, UserAssigned>,
}

impl From<&Workspace> for WorkspaceIdentityView {
    fn from(workspace: &Workspace) -> Self {
        let mut client_id = None;
        let mut user_assigned_identities = BTreeMap::new();
        for identity in workspace.identities.values() {
            match identity.kind {
                IdentityKind::SystemAssigned => client_id = Some(identity.client_id.clone()),
                IdentityKind::UserAssigned => {
                    let one = UserAssigned {
                        client_id: Some(identity.client_id.clone()),
                        ..UserAssigned::default()
                    };
                    user_assigned_identities.insert(identity.name.clone(), one);
                }
            }
        }
        let kind = match (client_id.is_some(), user_assigned_identities.is_empty()) {
            (true, true) => "system_assigned",
            (true, false) => "system_assigned,user_assigned",
            (false, false) => "user_assigned",
            (false, true) => "none",
        };
        Self {
            kind: kind.to_owned(),
            client_id,
            user_assigned_identities,
        }
    }
}
