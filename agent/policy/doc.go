// Package policy says what callers may do who are trusted: a small TOML file
// with roles, rules about methods and about what is in a request, and an answer
// to "why not".
//
// Without a policy a trusted caller may do what the profile of its key says,
// which by default is everything. Once there is a policy, what it does not allow
// is refused. docs/security.md has the file by examples.
//
// A policy is made by Parse and not changed afterwards; all functions are pure.
package policy
