package main

import (
	"errors"
	"strings"
)

// allowed are the licenses of what we ship: none asks more than a notice.
var allowed = map[string]bool{"Apache-2.0": true, "MIT": true, "BSD-2-Clause": true, "BSD-3-Clause": true, "ISC": true}

// licenses are told by sentences that they all have, in words of lower case with
// single spaces. Those that are declined come first: they quote others, or change
// them.
var licenses = []struct {
	id       string
	all      []string // all of these
	none     []string // and none of these
	declined bool     // one is enough, among whatever else
}{
	{id: "SSPL", all: []string{"server side public license"}, declined: true},
	{id: "BUSL", all: []string{"business source license"}, declined: true},
	{id: "Commons-Clause", all: []string{"commons clause"}, declined: true},
	{id: "MPL", all: []string{"mozilla public license"}, declined: true},
	{id: "EPL", all: []string{"eclipse public license"}, declined: true},
	{id: "GPL", all: []string{"gnu general public license"}, declined: true},
	{id: "LGPL", all: []string{"gnu lesser general public license"}, declined: true},
	{id: "AGPL", all: []string{"gnu affero general public license"}, declined: true},

	{id: "Apache-2.0", all: []string{"apache license version 2.0, january 2004", "grant of patent license", "limitation of liability"}},
	{id: "BSD-3-Clause", all: []string{"redistribution and use in source and binary forms", "redistributions of source code must retain", "redistributions in binary form must reproduce", "used to endorse or promote products"}, none: []string{"all advertising materials"}},
	{id: "BSD-2-Clause", all: []string{"redistribution and use in source and binary forms", "redistributions of source code must retain", "redistributions in binary form must reproduce"}, none: []string{"all advertising materials", "endorse or promote"}},
	{id: "MIT", all: []string{"permission is hereby granted, free of charge, to any person obtaining a copy of this software", "the above copyright notice and this permission notice shall be included", "without warranty of any kind"}},
	{id: "ISC", all: []string{"permission to use, copy, modify, and", "distribute this software for any purpose with or without fee is hereby granted, provided that the above copyright notice and this permission notice appear in all copies"}},
}

// identify returns the SPDX identifier, or the family, of the license with this
// text. Those of a text with several are joined by AND, which is none that is
// allowed: somebody has to look.
func identify(text string) (string, error) {
	words := strings.Join(strings.Fields(strings.ToLower(text)), " ")
	var found []string
	for _, l := range licenses {
		ok := true
		for _, s := range l.all {
			ok = ok && strings.Contains(words, s)
		}
		for _, s := range l.none {
			ok = ok && !strings.Contains(words, s)
		}
		switch {
		case ok && l.declined:
			return l.id, nil
		case ok:
			found = append(found, l.id)
		}
	}
	switch len(found) {
	case 0:
		return "", errors.New("nobody here knows this license")
	case 1:
		return found[0], nil
	}
	return strings.Join(found, " AND "), nil
}
