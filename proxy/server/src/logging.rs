//! The process's log: levels by component, spdlog's patterns, standard error or a file.
//!
//! Envoy's components (`upstream`, `http`, `config`, ...) are our crates' names without `outrider_`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, bail};
use arc_swap::ArcSwap;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

use crate::options::LogOptions;

const DEFAULT_PATTERN: &str = "[%Y-%m-%d %T.%e][%t][%l][%n] [%g:%#] %v";

/// The components that `/logging` lists: crates by their short names.
const COMPONENTS: &[&str] =
    &["config", "core", "http", "main", "net", "server", "tcp", "telemetry", "upstream"];

/// The levels in force; shared with the admin interface.
#[derive(Debug, Clone)]
pub struct LogControl(Arc<ArcSwap<Levels>>);

#[derive(Debug, Clone)]
struct Levels {
    default: LevelFilter,
    components: BTreeMap<String, LevelFilter>,
}

impl Levels {
    fn of(&self, component: &str) -> LevelFilter {
        self.components.get(component).copied().unwrap_or(self.default)
    }

    fn max(&self) -> LevelFilter {
        self.components.values().copied().chain([self.default]).max().unwrap_or(LevelFilter::INFO)
    }
}

impl LogControl {
    /// Control over nothing, for tests and tools that have no log.
    pub fn detached() -> Self {
        Self(Arc::new(ArcSwap::from_pointee(Levels {
            default: LevelFilter::INFO,
            components: BTreeMap::new(),
        })))
    }

    /// Sets the level of all components.
    ///
    /// # Errors
    /// The level is not one.
    pub fn set_all(&self, level: &str) -> anyhow::Result<()> {
        let default = parse_level(level)?;
        self.0.store(Arc::new(Levels { default, components: BTreeMap::new() }));
        tracing::callsite::rebuild_interest_cache();
        Ok(())
    }

    /// Sets the level of one component.
    ///
    /// # Errors
    /// The level is not one.
    pub fn set(&self, component: &str, level: &str) -> anyhow::Result<()> {
        let level = parse_level(level)?;
        let mut levels = Levels::clone(&self.0.load());
        levels.components.insert(component.to_owned(), level);
        self.0.store(Arc::new(levels));
        tracing::callsite::rebuild_interest_cache();
        Ok(())
    }

    /// Each component and its level, in Envoy's words.
    pub fn list(&self) -> Vec<(String, &'static str)> {
        let levels = self.0.load();
        let mut names: Vec<String> = COMPONENTS.iter().map(|name| (*name).to_owned()).collect();
        names.extend(levels.components.keys().cloned());
        names.sort();
        names.dedup();
        names
            .into_iter()
            .map(|name| {
                let level = level_name(levels.of(&name));
                (name, level)
            })
            .collect()
    }
}

/// Starts the process's log.
///
/// # Errors
/// A level or component is not one, or the log file cannot be opened.
pub fn init(options: &LogOptions) -> anyhow::Result<LogControl> {
    let mut levels =
        Levels { default: parse_level(&options.level).context("--log-level")?, components: BTreeMap::new() };
    for pair in options.component_levels.split(',').filter(|pair| !pair.is_empty()) {
        let Some((component, level)) = pair.split_once(':') else {
            bail!("--component-log-level: {pair:?} is not component:level");
        };
        levels.components.insert(component.to_owned(), parse_level(level).context("--component-log-level")?);
    }
    let sink = match &options.path {
        None => Sink::Stderr,
        Some(path) => {
            let file = File::options().create(true).append(true).open(path);
            Sink::File(Mutex::new(file.with_context(|| format!("--log-path {}", path.display()))?))
        }
    };
    let control = LogControl(Arc::new(ArcSwap::from_pointee(levels)));
    let layer = LogLayer {
        control: control.clone(),
        pattern: options.format.clone().unwrap_or_else(|| DEFAULT_PATTERN.to_owned()),
        escape: options.escape,
        sink,
    };
    // A second start in one process (the demo, tests) keeps the first log.
    let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer));
    Ok(control)
}

fn parse_level(level: &str) -> anyhow::Result<LevelFilter> {
    Ok(match level {
        "trace" => LevelFilter::TRACE,
        "debug" => LevelFilter::DEBUG,
        "info" => LevelFilter::INFO,
        "warning" | "warn" => LevelFilter::WARN,
        "error" | "critical" => LevelFilter::ERROR,
        "off" => LevelFilter::OFF,
        other => {
            bail!("{other:?} is not a log level: use trace, debug, info, warning, error, critical or off")
        }
    })
}

fn level_name(level: LevelFilter) -> &'static str {
    match level {
        LevelFilter::TRACE => "trace",
        LevelFilter::DEBUG => "debug",
        LevelFilter::INFO => "info",
        LevelFilter::WARN => "warning",
        LevelFilter::ERROR => "error",
        _ => "off",
    }
}

enum Sink {
    Stderr,
    File(Mutex<File>),
}

struct LogLayer {
    control: LogControl,
    pattern: String,
    escape: bool,
    sink: Sink,
}

impl<S: Subscriber> Layer<S> for LogLayer {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        *metadata.level() <= self.control.0.load().of(component(metadata.target()))
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.control.0.load().max())
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut message = Message::default();
        event.record(&mut message);
        let text = if self.escape { message.text.escape_default().to_string() } else { message.text };
        let mut line = render(&self.pattern, event.metadata(), &text);
        line.push('\n');
        // A log that cannot be written has nowhere to say so.
        let _ = match &self.sink {
            Sink::Stderr => std::io::stderr().write_all(line.as_bytes()),
            Sink::File(file) => {
                file.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes())
            }
        };
    }
}

/// `outrider_upstream::pool::h1` is `upstream`; what is not ours (hyper, h2) is named by its own crate.
fn component(target: &str) -> &str {
    let name = target.split("::").next().unwrap_or(target);
    match name.strip_prefix("outrider_") {
        Some(room) => room,
        None if name == "outrider" => "main",
        None => name,
    }
}

#[derive(Default)]
struct Message {
    text: String,
}

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            let fields = std::mem::take(&mut self.text);
            let _ = write!(self.text, "{value:?}{fields}");
        } else {
            let _ = write!(self.text, " {}={value:?}", field.name());
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let _ = write!(self.text, " {}={value}", field.name());
    }
}

/// Writes one line by an spdlog pattern; unknown letters print as they are.
fn render(pattern: &str, metadata: &Metadata<'_>, text: &str) -> String {
    let now = chrono::Local::now();
    let mut out = String::with_capacity(pattern.len() + text.len() + 32);
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let level = level_name(LevelFilter::from_level(*metadata.level()));
        let _ = match chars.next() {
            Some('v') => out.write_str(text),
            Some('_') => out.write_str(&text.replace('\n', "\\n")),
            Some('j') => out.write_str(serde_json::Value::from(text).to_string().trim_matches('"')),
            Some('l') => out.write_str(level),
            Some('L') => out.write_char(level.chars().next().unwrap_or('?').to_ascii_uppercase()),
            Some('n') => out.write_str(component(metadata.target())),
            Some('t') => write!(out, "{}", rustix::thread::gettid().as_raw_nonzero()),
            Some('P') => write!(out, "{}", std::process::id()),
            Some('g' | 's') => out.write_str(metadata.file().unwrap_or("?")),
            Some('#') => write!(out, "{}", metadata.line().unwrap_or(0)),
            Some('@') => write!(out, "{}:{}", metadata.file().unwrap_or("?"), metadata.line().unwrap_or(0)),
            Some('e') => write!(out, "{:03}", now.timestamp_subsec_millis()),
            Some('f') => write!(out, "{:06}", now.timestamp_subsec_micros()),
            Some('F') => write!(out, "{:09}", now.timestamp_subsec_nanos()),
            Some('E') => write!(out, "{}", now.timestamp()),
            Some(
                letter @ ('Y' | 'm' | 'd' | 'H' | 'M' | 'S' | 'T' | 'D' | 'y' | 'a' | 'A' | 'b' | 'B' | 'I'
                | 'p' | 'c' | 'z' | 'R'),
            ) => {
                let format = [b'%', letter as u8];
                write!(out, "{}", now.format(std::str::from_utf8(&format).unwrap_or("")))
            }
            // Colour ranges of spdlog: no colours here.
            Some('^' | '$') => Ok(()),
            Some('%') => out.write_char('%'),
            Some(other) => write!(out, "%{other}"),
            None => out.write_char('%'),
        };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_envoys_words_and_components_override() {
        assert!(parse_level("loud").unwrap_err().to_string().contains("use trace, debug"));
        let control = LogControl::detached();
        control.set("upstream", "debug").unwrap();
        assert!(control.list().contains(&("upstream".to_owned(), "debug")));
        assert!(control.list().contains(&("http".to_owned(), "info")));
        control.set_all("off").unwrap();
        assert!(control.list().contains(&("upstream".to_owned(), "off")));
    }

    #[test]
    fn components_are_the_rooms() {
        assert_eq!(component("outrider_upstream::pool"), "upstream");
        assert_eq!(component("outrider"), "main");
        assert_eq!(component("h2::codec"), "h2");
    }
}
