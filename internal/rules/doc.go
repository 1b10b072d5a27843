// Package rules holds the tests that keep the rules of the repository as a whole.
package rules
