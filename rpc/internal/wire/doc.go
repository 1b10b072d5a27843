// Package wire has the bytes of the native wire, as PROTOCOL.md specifies them: frames,
// the heads of frames, what a side says first, codes, and the arithmetic of credits.
//
// It is pure: no I/O, no locks, no goroutines, no time. What it parses comes from a
// peer that may be hostile, so every parser is fuzzed, refuses what is malformed with
// an [Error], and takes time and memory in proportion to what it was given. Slices
// that a parser returns lie in its argument.
package wire
