package main

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"
)

// maxText bounds the text of a guest that one line, one cell, or one object of JSON has.
// It may become six times as long when control characters are made visible.
const maxText = 256 << 10

// clip returns s, cut to at most so many bytes.
func clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}

// clipAll cuts the texts of a value for JSON, a pointer, so that they have maxText
// together at most.
func clipAll(v any) {
	left := maxText
	clipValue(reflect.ValueOf(v), &left)
}

func clipValue(v reflect.Value, left *int) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			clipValue(v.Elem(), left)
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			return
		}
		for _, f := range v.Fields() {
			clipValue(f, left)
		}
	case reflect.Slice:
		for i := range v.Len() {
			if *left <= 0 {
				if v.CanSet() {
					v.Set(v.Slice(0, i))
				}
				break
			}
			*left -= 4 // for what is around an element
			clipValue(v.Index(i), left)
		}
	case reflect.String:
		if s := v.String(); v.CanSet() && len(s) > max(*left, 0) {
			v.SetString(clip(s, max(*left, 0)))
		}
		*left -= v.Len()
	}
}

// failures are what went wrong with one after the other of many things: the first
// hundred, and how many there are.
type failures struct {
	first []error
	n     int
}

const maxFailures = 100

// add counts err, unless it is nil.
func (f *failures) add(err error) {
	if err == nil {
		return
	}
	if f.n++; len(f.first) < maxFailures {
		f.first = append(f.first, err)
	}
}

// err returns all as one error, or nil.
func (f *failures) err() error {
	if f.n > len(f.first) {
		return errors.Join(append(f.first, fmt.Errorf("and %d more", f.n-len(f.first)))...)
	}
	return errors.Join(f.first...)
}
