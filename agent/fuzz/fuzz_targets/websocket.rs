//! See `portcullis_fuzz::websocket`.
#![cfg_attr(fuzzing, no_main)]

portcullis_fuzz::target!(websocket);
