pub mod conf;
pub mod deployments;
pub mod doc;
pub mod explain;
pub mod running;
