//! The table itself, in the order of the documentation.

use super::DefaultValue::{Depends, Is, Needed, Unset};
use super::Kind::{Decimal, List, Mode, Number, OneOf, Path, Text, Truth};
use super::Names::{AlsoTheirs, OfFiles, OfPlugins, Ours};
use super::{DefaultValue, Key, Kind, Section};

/// Every section that the server reads.
pub const SECTIONS: [Section; 10] = [
    Section { name: "network", names: AlsoTheirs, keys: NETWORK },
    Section { name: "paths", names: AlsoTheirs, keys: PATHS },
    Section { name: "auth", names: AlsoTheirs, keys: AUTH },
    Section { name: "SSL", names: AlsoTheirs, keys: SSL },
    Section { name: "cors", names: AlsoTheirs, keys: CORS },
    Section { name: "server", names: Ours, keys: SERVER },
    Section { name: "python", names: Ours, keys: PYTHON },
    Section { name: "limits", names: Ours, keys: LIMITS },
    Section { name: "plugin_parms", names: OfFiles, keys: PLUGIN_PARMS },
    Section { name: "plugin_options", names: OfPlugins, keys: PLUGIN_OPTIONS },
];

/// What a level is.
const LEVELS: &[&str] = &["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"];

/// Name, type, default, unit, meaning.
const fn key(name: &'static str, kind: Kind, default: DefaultValue, unit: &'static str, meaning: &'static str) -> Key {
    Key { name, kind, default, unit, meaning }
}

const NETWORK: &[Key] = &[
    key(
        "bindto",
        List,
        Is("127.0.0.1"),
        "",
        "address to listen on, or several, divided by blanks or commas; `0.0.0.0` is every IPv4 address, `::` every \
         IPv6 address too; `unix:/path` is a Unix socket",
    ),
    key("port", Number, Is("9192"), "", "0 takes a free one, which the log names"),
    key("socket_mode", Mode, Is("660"), "", "who may connect to a Unix socket: its file's mode"),
];

const PATHS: &[Key] = &[
    key("plugins", Path, Needed, "", "the folder with plugin files"),
    key("documents", Text, Unset, "", "a folder of static files, as `route:folder`, see [static files](documents.md)"),
    key("indexfile", Text, Is("index.html"), "", "the file that answers for a folder of `documents`"),
    key("pidfile", Path, Unset, "", "holds the process number while the server runs"),
];

const AUTH: &[Key] =
    &[key("apikey", Text, Unset, "", "the global key, see [authentication](authentication.md); empty is an error")];

const SSL: &[Key] = &[
    key("enabled", Truth, Is("false"), "", "speaks HTTPS and nothing else on every TCP address, see [TLS](tls.md)"),
    key("certfile", Path, Depends("needed when enabled"), "", "PEM file with the certificate and those that it needs"),
    key("keyfile", Path, Depends("needed when enabled"), "", "PEM file with the certificate's private key"),
];

const CORS: &[Key] = &[
    key("enabled", Truth, Is("false"), "", "lets pages of other origins in, see [cross-origin requests](cors.md)"),
    key("origin_url", List, Unset, "", "their origins, such as `https://example.org`; `*` is every one"),
    key("acl", List, Unset, "", "domains whose hosts are origins too; requests of others are then refused"),
];

const SERVER: &[Key] = &[
    key(
        "workers",
        Number,
        Is("1"),
        "processes",
        "processes that serve, each with a Python of its own and every plugin: see \
         [operating](operate.md#how-many-workers)",
    ),
    key("io_threads", Number, Depends("cores, at most 4"), "threads", "threads of each worker that do the HTTP"),
    key(
        "scheduling",
        OneOf(&["batch", "normal"]),
        Is("batch"),
        "",
        "`batch` (SCHED_BATCH of sched(7)) keeps the server's threads from taking a core from each other, which \
         shortens the slowest answers on a busy core; `normal` is the system's default; processes that plugins start \
         inherit it",
    ),
    key("access_log", Path, Unset, "", "file for one line a request"),
    key(
        "access_log_format",
        OneOf(&["common", "combined", "json"]),
        Is("combined"),
        "",
        "its form: `common`, `combined` (with the request's id behind it) or [`json`](operate.md#the-access-log) with duration \
         and plugin",
    ),
    key(
        "log_format",
        OneOf(&["auto", "text", "systemd", "json"]),
        Is("auto"),
        "",
        "form of the log, see [logs](operate.md#logs); `auto` is text on a terminal and the systemd form elsewhere; \
         `--log-format` stands above it",
    ),
    key("log_level", OneOf(LEVELS), Is("INFO"), "", "from which level on lines are written; `-v` stands above it"),
    key(
        "compression",
        Truth,
        Is("true"),
        "",
        "[gzip for answers](responses.md#compression-of-everything-else) that are worth it",
    ),
    key("debug", Truth, Is("false"), "", "puts tracebacks into error replies"),
    key("page", Truth, Is("false"), "", "serves the [live page](page.md) under `/-/`"),
    key(
        "legacy_status",
        Truth,
        Is("false"),
        "",
        "answers 200 where the Python program did: to every tuple's code, refusal and exception; only response objects \
         keep their status",
    ),
    key(
        "openapi",
        Truth,
        Is("true"),
        "",
        "[`/-/openapi.json`](calling.md#the-description-for-tools) describes the plugins to callers",
    ),
    key("required_plugins", List, Unset, "", "plugins without which [`/readyz`](usage.md#probes) says 503"),
    key(
        "trusted_proxies",
        List,
        Is("127.0.0.0/8 ::1/128"),
        "",
        "networks of proxies whose `X-Forwarded-For`, `X-Forwarded-Proto`, `X-Forwarded-Host` and `Forwarded` are \
         believed: `client_ip`, `remote`, `scheme`, `host` and `url` are then the client's",
    ),
];

const PYTHON: &[Key] =
    &[key("venv", Path, Depends("`$VIRTUAL_ENV`"), "", "the virtual environment with the plugins' packages")];

const LIMITS: &[Key] = &[
    key(
        "body",
        Number,
        Is("1048576"),
        "bytes",
        "the largest request body that is read whole; over it 413, or [streamed](bodies.md)",
    ),
    key("header_block", Number, Is("65536"), "bytes", "the largest head of a request (at least 8192); over it 431"),
    key(
        "first_byte_timeout",
        Decimal,
        Is("30"),
        "seconds",
        "how long a new connection may stand before its first byte ([limits](limits.md), also for the next ones; zero \
         is no limit)",
    ),
    key(
        "header_timeout",
        Decimal,
        Is("10"),
        "seconds",
        "how long the head of a request may take from its first byte on; then 408",
    ),
    key(
        "body_timeout",
        Decimal,
        Is("30"),
        "seconds",
        "how long a body which is read whole may take, with one second more for each KiB that has come, and how long a \
         streamed one may stand still; then 408",
    ),
    key("send_timeout", Decimal, Is("60"), "seconds", "how long a client may take no byte of its answer"),
    key("idle_timeout", Decimal, Is("75"), "seconds", "how long a connection may stand between two requests"),
    key("handshake_timeout", Decimal, Is("10"), "seconds", "how long a TLS handshake may take"),
    key(
        "request_timeout",
        Decimal,
        Is("0"),
        "seconds",
        "how long a call may take, from the moment it is handed over (waiting for its turn included) until its answer \
         begins; over it 504; 0 is no limit; see [time limits](writing-plugins.md#time-limits)",
    ),
    key(
        "drain_timeout",
        Decimal,
        Is("10"),
        "seconds",
        "how long a stop, or the end of a replaced plugin, waits for calls that still run",
    ),
    key("load_timeout", Decimal, Is("60"), "seconds", "how long a plugin's `initialize` may take"),
    key(
        "handler_threads",
        Number,
        Is("40"),
        "threads",
        "threads for plain handlers, all plugins together; started when needed. The only running call of a plugin gets \
         one beyond that number if need be",
    ),
    key(
        "lost_threads",
        Number,
        Is("20"),
        "threads",
        "threads that are replaced while plain handlers which were over their limit still occupy them",
    ),
    key(
        "waiting_calls",
        Number,
        Is("10000"),
        "calls",
        "calls of one plugin that may run or wait; over it 503 with `Retry-After`",
    ),
    key(
        "connections",
        Number,
        Is("10000"),
        "connections",
        "connections of one worker; beyond it an idle one is closed, and when there is none 503 with `Retry-After`",
    ),
    key(
        "connections_per_client",
        Number,
        Is("0"),
        "connections",
        "connections of one address with one worker; beyond it 429 with `Retry-After`. Zero is no limit",
    ),
    key(
        "crash_quarantine",
        Number,
        Is("3"),
        "crashes",
        "crashes of a worker within ten minutes after which the plugin file that caused them is \
         [put in quarantine](operate.md#when-a-worker-crashes); 0 is never",
    ),
    key(
        "loop_stall",
        Decimal,
        Is("30"),
        "seconds",
        "how long a worker's event loop may stand still until the worker is replaced; 0 is for ever",
    ),
    key(
        "max_requests",
        Number,
        Is("0"),
        "requests",
        "requests after which a worker is [replaced by a fresh one](operate.md#recycling), or up to a tenth fewer; 0 is \
         never",
    ),
    key(
        "max_memory_mb",
        Number,
        Is("0"),
        "MiB",
        "resident memory from which a worker is replaced, or up to a tenth less; 0 is never",
    ),
    key("max_age", Decimal, Is("0"), "seconds", "age at which a worker is replaced, or up to a tenth less; 0 is never"),
];

const PLUGIN_PARMS: &[Key] = &[key(
    "<file stem>",
    Text,
    Unset,
    "",
    "constructor arguments of a file: `key=value&key=value` in URL query syntax (first value of a repeated key, `+` is \
     a blank, blank ones dropped); stems are compared without regard to case",
)];

const PLUGIN_OPTIONS: &[Key] = &[
    key("threads", Number, Is("1"), "calls", "plain calls of this plugin that may run at the same time"),
    key(
        "reload",
        OneOf(&["swap", "restart"]),
        Is("swap"),
        "",
        "`restart` ends the old plugin before the new one starts, see [usage](usage.md#control-routes)",
    ),
    key(
        "body",
        OneOf(&["read", "stream"]),
        Depends("as its code looks"),
        "",
        "how request bodies reach it, see [request bodies](bodies.md)",
    ),
    key("timeout", Decimal, Depends("`[limits] request_timeout`"), "seconds", "its own limit for a call; 0 is none"),
    key("cancel_on_disconnect", Truth, Is("false"), "", "a call whose client has left is cancelled"),
    key(
        "log",
        OneOf(LEVELS),
        Depends("`[server] log_level`"),
        "",
        "from which level on its lines are written, see [levels](operate.md#levels-of-single-plugins)",
    ),
];
