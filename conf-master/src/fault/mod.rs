pub mod refusal;
