// Package account looks up the guest's users and groups in the files of
// passwd(5) and group(5), as a static program has to. Names that only a
// directory service knows are not found; their numbers work.
package account
