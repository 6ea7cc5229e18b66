//! Glue between the id types and bilrost: a newtype is encoded exactly as the number or the bytes
//! inside it, so that types cost nothing on the wire.
//!
//! Must always hold: the default value is bilrost's empty state (never encoded).

/// Encodes a newtype over an unsigned integer as a bilrost varint or fixed number.
macro_rules! wire_number {
    ($name:ty, $inner:ty, $encoding:ident) => {
        impl bilrost::encoding::Proxiable for $name {
            type Proxy = $inner;

            fn encode_proxy(&self) -> $inner {
                self.0
            }

            fn decode_proxy(
                &mut self,
                proxy: $inner,
            ) -> Result<(), bilrost::DecodeErrorKind> {
                self.0 = proxy;
                Ok(())
            }
        }

        impl bilrost::encoding::ForOverwrite<(), $name> for () {
            fn for_overwrite() -> $name {
                <$name>::default()
            }
        }

        impl bilrost::encoding::EmptyState<(), $name> for () {
            fn is_empty(value: &$name) -> bool {
                value.0 == 0
            }

            fn clear(value: &mut $name) {
                *value = <$name>::default();
            }
        }

        bilrost::delegate_proxied_encoding!(
            use encoding (bilrost::encoding::$encoding)
            to encode proxied type ($name)
            with general encodings
        );
    };
}

/// Encodes a type with `to_bytes`/`from_bytes` as that many plain bytes.
macro_rules! wire_bytes {
    ($name:ty, $len:expr) => {
        impl bilrost::encoding::Proxiable for $name {
            type Proxy = [u8; $len];

            fn encode_proxy(&self) -> [u8; $len] {
                self.to_bytes()
            }

            fn decode_proxy(
                &mut self,
                proxy: [u8; $len],
            ) -> Result<(), bilrost::DecodeErrorKind> {
                *self = Self::from_bytes(proxy);
                Ok(())
            }
        }

        impl bilrost::encoding::ForOverwrite<(), $name> for () {
            fn for_overwrite() -> $name {
                <$name>::default()
            }
        }

        impl bilrost::encoding::EmptyState<(), $name> for () {
            fn is_empty(value: &$name) -> bool {
                *value == <$name>::default()
            }

            fn clear(value: &mut $name) {
                *value = <$name>::default();
            }
        }

        bilrost::delegate_proxied_encoding!(
            use encoding (bilrost::encoding::PlainBytes)
            to encode proxied type ($name)
            with general encodings
        );
    };
}

pub(crate) use {wire_bytes, wire_number};
