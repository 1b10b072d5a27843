//go:build !linux

package main

func main() { panic("labinit: only for Linux") }
