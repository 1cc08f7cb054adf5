package wipehash

// HMAC is HMAC-SHA256 (RFC 2104) of parts, one after the other. It wipes the state.
func (s *State) HMAC(key []byte, parts ...[]byte) [Size]byte {
	defer s.Wipe()
	s.setKey(key)
	var out [Size]byte
	s.mac(&out, parts...)
	return out
}
