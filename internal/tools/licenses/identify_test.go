package main

import (
	"os"
	"path/filepath"
	"testing"
)

const (
	mit = `Permission is hereby granted, free of charge, to any person obtaining a copy of this
	software ... The above copyright notice and this permission notice shall be included in all
	copies ... THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND`
	bsd2 = `Redistribution and use in source and binary forms, with or without
		modification, are permitted: 1. Redistributions of source code must retain the above
		2. Redistributions in binary form must reproduce the above copyright notice`
	bsd3 = bsd2 + ` Neither the name of X may be used to endorse or promote products derived from this`
	bsd4 = bsd3 + ` All advertising materials mentioning features must display`
)

func TestIdentify(t *testing.T) {
	for name, tt := range map[string]struct{ text, want string }{
		"nothing":              {"", ""},
		"all rights reserved":  {"Copyright X. All rights reserved.", ""},
		"MIT":                  {mit, "MIT"},
		"BSD with 2":           {bsd2, "BSD-2-Clause"},
		"BSD with 3":           {bsd3, "BSD-3-Clause"},
		"BSD with 4":           {bsd4, ""},
		"both":                 {mit + bsd3, "BSD-3-Clause AND MIT"},
		"a name of Apache":     {"Licensed under the Apache License, Version 2.0", ""},
		"GPL":                  {"GNU GENERAL PUBLIC\n LICENSE Version 2", "GPL"},
		"LGPL":                 {"GNU Lesser General Public License", "LGPL"},
		"AGPL":                 {"GNU AFFERO GENERAL PUBLIC LICENSE", "AGPL"},
		"MIT with a clause":    {mit + ` "Commons Clause" License Condition v1.0`, "Commons-Clause"},
		"MPL, which names GPL": {"Mozilla Public License Version 2.0 ... the GNU General Public License, Version 2.0", "MPL"},
		"BUSL":                 {"Business Source License 1.1", "BUSL"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := identify(tt.text)
			if got != tt.want || (err == nil) != (tt.want != "") {
				t.Errorf("%q, %v; want %q", got, err, tt.want)
			}
			if allowed[got] != (got == "MIT" || got == "BSD-2-Clause" || got == "BSD-3-Clause") {
				t.Errorf("%q: allowed: %t", got, allowed[got])
			}
		})
	}
}

func TestLicenseIn(t *testing.T) {
	for name, tt := range map[string]struct {
		files map[string]string
		want  string
	}{
		"none":       {map[string]string{"README": mit}, ""},
		"one":        {map[string]string{"LICENSE": mit, "doc.go": ""}, "MIT"},
		"lower case": {map[string]string{"license.txt": bsd3}, "BSD-3-Clause"},
		"two alike":  {map[string]string{"LICENSE": mit, "COPYING": mit}, "MIT"},
		"two":        {map[string]string{"LICENSE": mit, "LICENSE.bsd": bsd2}, ""},
		"one of two": {map[string]string{"LICENSE": mit, "LICENSE.other": "mine"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, text := range tt.files {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if got, err := licenseIn(dir); got != tt.want || (err == nil) != (tt.want != "") {
				t.Errorf("%q, %v; want %q", got, err, tt.want)
			}
		})
	}
}
