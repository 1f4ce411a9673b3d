//! AWS calls: the service from the host or the signature's scope, the operation from where each protocol puts it
//! (<https://smithy.io/2.0/aws/protocols/>), the effect from the operation's verb and a table of exceptions.

use super::catalog::Call;
use super::{Body, HttpRequest};
use crate::request::Effect;

/// Verbs that only look.
const READS: [&str; 17] = [
    "get", "list", "describe", "head", "batchget", "query", "scan", "select", "lookup", "search", "check",
    "estimate", "preview", "view", "filter", "simulate", "detect",
];

/// Verbs that change data.
const WRITES: [&str; 29] = [
    "put",
    "update",
    "send",
    "publish",
    "start",
    "invoke",
    "write",
    "batchwrite",
    "copy",
    "upload",
    "complete",
    "restore",
    "tag",
    "untag",
    "receive",
    "change",
    "modify",
    "set",
    "reset",
    "execute",
    "transact",
    "run",
    "stop",
    "reboot",
    "abort",
    "cancel",
    "submit",
    "add",
    "purge",
];

/// Verbs that make, alter or destroy a thing that holds others.
const DDL: [&str; 14] = [
    "create",
    "delete",
    "terminate",
    "destroy",
    "register",
    "deregister",
    "remove",
    "release",
    "disable",
    "enable",
    "schedule",
    "allocate",
    "import",
    "batchdelete",
];

/// Services whose changes decide who may do what.
const GRANTING: [&str; 8] = ["iam", "sso", "sts", "organizations", "ram", "kms", "secretsmanager", "acm"];

/// Words in an operation's name that mean permissions, in any service.
const GRANTS: [&str; 8] =
    ["policy", "permission", "acl", "grant", "role", "accesskey", "publicaccessblock", "authorize"];

/// Operations whose verb says something else than they do.
const EXCEPTIONS: &[(&str, &str, Effect, Option<&str>)] = &[
    ("sts", "getcalleridentity", Effect::Read, None),
    ("sts", "assumerole", Effect::Admin, Some("takes on another role's permissions")),
    ("sts", "assumerolewithwebidentity", Effect::Admin, Some("takes on another role's permissions")),
    ("sts", "getsessiontoken", Effect::Admin, Some("makes new credentials")),
    ("sts", "getfederationtoken", Effect::Admin, Some("makes new credentials")),
    ("secretsmanager", "getsecretvalue", Effect::Read, Some("reads a secret")),
    ("secretsmanager", "batchgetsecretvalue", Effect::Read, Some("reads secrets")),
    ("ssm", "getparameter", Effect::Read, Some("reads a parameter, which may be a secret")),
    ("ssm", "getparameters", Effect::Read, Some("reads parameters, which may be secrets")),
    ("ssm", "sendcommand", Effect::Unknown, Some("runs commands on hosts")),
    ("kms", "decrypt", Effect::Read, Some("decrypts with a managed key")),
    ("kms", "encrypt", Effect::Read, None),
    ("kms", "generatedatakey", Effect::Read, None),
    ("dynamodb", "executestatement", Effect::Unknown, Some("runs a PartiQL statement")),
    ("dynamodb", "deleteitem", Effect::Write, None),
    ("dynamodb", "transactgetitems", Effect::Read, None),
    ("athena", "startqueryexecution", Effect::Unknown, Some("runs a SQL statement")),
    ("redshift-data", "executestatement", Effect::Unknown, Some("runs a SQL statement")),
    ("rds-data", "executestatement", Effect::Unknown, Some("runs a SQL statement")),
    ("logs", "startquery", Effect::Read, None),
    ("logs", "createlogstream", Effect::Write, None),
    ("sqs", "deletemessage", Effect::Write, None),
    ("sqs", "deletemessagebatch", Effect::Write, None),
    ("sqs", "changemessagevisibility", Effect::Write, None),
    ("bedrock", "invokemodel", Effect::Read, None),
    ("bedrock", "converse", Effect::Read, None),
];

/// Whether a request is for AWS, by its host or by its signature.
pub(super) fn is_for_aws(request: &HttpRequest) -> bool {
    is_aws_host(&request.host) || scope_service(request).is_some()
}

fn is_aws_host(host: &str) -> bool {
    host.ends_with(".amazonaws.com") || host.ends_with(".amazonaws.com.cn") || host.ends_with(".api.aws")
}

/// What a request calls, if it is for AWS.
pub(super) fn call(request: &HttpRequest) -> Option<Call> {
    if !is_for_aws(request) {
        return None;
    }
    let service = scope_service(request).or_else(|| host_service(&request.host))?;
    if service == "s3" {
        return Some(s3(request));
    }
    let Some(operation) = operation(request, &service) else {
        // A REST protocol: the method tells, and what it deletes may hold much.
        let effect = if request.method == "DELETE" {
            Effect::Ddl
        } else {
            super::analysis::method_effect(&request.method)
        };
        return Some(Call {
            kind: format!("aws {service}:{}", request.method.to_lowercase()),
            effect,
            reason: None,
            certain: false,
        });
    };
    let (effect, reason) = effect_of(&service, &operation);
    Some(Call { kind: format!("aws {service}:{operation}"), effect, reason, certain: true })
}

/// The service in the scope of a Signature Version 4, which the server checks.
fn scope_service(request: &HttpRequest) -> Option<String> {
    let header = request.header("authorization").filter(|value| value.starts_with("AWS4-HMAC-SHA256"));
    let credential = header.and_then(|value| {
        let (_, rest) = value.split_once("Credential=")?;
        rest.split([',', ' ']).next()
    });
    let credential = credential.or_else(|| request.parameters("X-Amz-Credential").next())?;
    let service = credential.split('/').nth(3)?;
    let plain = service.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    (plain && !service.is_empty()).then(|| service.to_ascii_lowercase())
}

/// `dynamodb.eu-west-1.amazonaws.com`, `bucket.s3.eu-west-1.amazonaws.com`, `s3-eu-west-1.amazonaws.com`.
fn host_service(host: &str) -> Option<String> {
    let labels: Vec<&str> = host.split('.').collect();
    let s3 = |label: &&str| *label == "s3" || label.starts_with("s3-");
    if labels.iter().any(s3) {
        return Some("s3".to_owned());
    }
    let name = labels.first()?;
    Some(name.trim_end_matches("-fips").trim_start_matches("api.").to_owned())
}

/// The operation by its name, lower case.
fn operation(request: &HttpRequest, service: &str) -> Option<String> {
    let target = request.header("x-amz-target").and_then(|value| value.rsplit('.').next());
    let form: &[(String, String)] = match &request.body {
        Body::Form(form) => form,
        Body::Empty | Body::Json(_) | Body::Other | Body::Unread => &[],
    };
    let in_form = form.iter().find(|(name, _)| name == "Action").map(|(_, value)| value.as_str());
    let named = target.or_else(|| request.parameters("Action").next()).or(in_form);
    if let Some(name) = named {
        return Some(name.to_ascii_lowercase());
    }
    let segments = request.path.segments();
    let last = segments.last().map(String::as_str).unwrap_or_default();
    match (service, request.method.as_str(), segments.first().map(String::as_str), last) {
        ("bedrock" | "bedrock-runtime", "POST", Some("model"), "invoke" | "invoke-with-response-stream") => {
            Some("invokemodel".to_owned())
        }
        ("bedrock" | "bedrock-runtime", "POST", Some("model"), "converse" | "converse-stream") => {
            Some("converse".to_owned())
        }
        ("lambda", "POST", _, "invocations") => Some("invoke".to_owned()),
        _ => None,
    }
}

fn effect_of(service: &str, operation: &str) -> (Effect, Option<String>) {
    let service = service.trim_end_matches("-runtime");
    let exception = EXCEPTIONS.iter().find(|(of, name, ..)| *of == service && *name == operation);
    if let Some((_, _, effect, reason)) = exception {
        return (*effect, reason.map(str::to_owned));
    }
    let begins = |verbs: &[&str]| verbs.iter().any(|verb| operation.starts_with(verb));
    if begins(&READS) {
        return (Effect::Read, None);
    }
    let grants = GRANTING.contains(&service) || GRANTS.iter().any(|word| operation.contains(word));
    if grants || begins(&["attach", "detach", "assume", "grant", "revoke", "authorize"]) {
        return (Effect::Admin, Some("changes who may do what".to_owned()));
    }
    if begins(&DDL) {
        return (Effect::Ddl, None);
    }
    if begins(&WRITES) {
        return (Effect::Write, None);
    }
    (Effect::Unknown, Some("is a call whose verb is not known".to_owned()))
}

/// Sub-resources of S3 that say who may do what.
const S3_GRANTS: [&str; 6] =
    ["acl", "policy", "ownershipControls", "publicAccessBlock", "object-lock", "legal-hold"];

/// S3 (<https://docs.aws.amazon.com/AmazonS3/latest/API/API_Operations.html>): the method, whether a key is named, and the
/// sub-resource in the query.
fn s3(request: &HttpRequest) -> Call {
    let has = |name: &str| request.query.iter().any(|(key, _)| key == name);
    let in_host =
        request.host.split('.').next().is_some_and(|label| label != "s3" && !label.starts_with("s3-"));
    let named = request.path.segments().len() + usize::from(in_host);
    let object = named > 1;
    let granting = S3_GRANTS.iter().find(|name| has(name));
    let (kind, effect) = match (request.method.as_str(), granting, object) {
        ("GET" | "HEAD", Some(name), _) => (format!("get{}", name.to_lowercase()), Effect::Read),
        ("GET" | "HEAD", None, true) => ("getobject".to_owned(), Effect::Read),
        ("GET" | "HEAD", None, false) => ("listobjects".to_owned(), Effect::Read),
        (_, Some(name), _) => (format!("put{}", name.to_lowercase()), Effect::Admin),
        ("PUT", None, true) => ("putobject".to_owned(), Effect::Write),
        ("PUT", None, false) if request.query.is_empty() => ("createbucket".to_owned(), Effect::Ddl),
        ("PUT", None, false) => ("putbucketsetting".to_owned(), Effect::Ddl),
        ("DELETE", None, true) => ("deleteobject".to_owned(), Effect::Write),
        ("DELETE", None, false) => ("deletebucket".to_owned(), Effect::Ddl),
        ("POST", None, _) if has("delete") => ("deleteobjects".to_owned(), Effect::Write),
        ("POST", None, _) if has("select") => ("selectobjectcontent".to_owned(), Effect::Read),
        ("POST", None, _) => ("postobject".to_owned(), Effect::Write),
        (_, None, _) => ("unknown".to_owned(), Effect::Unknown),
    };
    let grants = effect == Effect::Admin;
    Call {
        kind: format!("aws s3:{kind}"),
        effect,
        reason: grants.then(|| "changes who may do what".to_owned()),
        certain: true,
    }
}
