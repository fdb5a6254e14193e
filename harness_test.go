package flush_test

// This file holds what the tests of this package share: servers for every
// protocol, a client that reads a response step by step, an in-memory network
// for synctest bubbles, and connections that misbehave on cue.
