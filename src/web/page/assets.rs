//! The page's files, built into the binary: it works without a network and without a folder.

/// One file of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asset {
    Page,
    Style,
    Script,
    Icon,
}

impl Asset {
    /// The file of a name under the prefix; the page itself has none.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "" => Some(Self::Page),
            "page.css" => Some(Self::Style),
            "page.js" => Some(Self::Script),
            "icon.svg" => Some(Self::Icon),
            _ => None,
        }
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Self::Page => "text/html; charset=utf-8",
            Self::Style => "text/css; charset=utf-8",
            Self::Script => "text/javascript; charset=utf-8",
            Self::Icon => "image/svg+xml",
        }
    }

    pub fn text(self) -> &'static str {
        match self {
            Self::Page => include_str!("assets/page.html"),
            Self::Style => include_str!("assets/page.css"),
            Self::Script => include_str!("assets/page.js"),
            Self::Icon => include_str!("assets/icon.svg"),
        }
    }
}
