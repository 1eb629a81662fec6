package main

import (
	goversion "go/version"
	"strings"
)

// goFloor lists, for each minor of Go in use, the oldest patch whose standard
// library has no known hole that a client of a gate can reach. The last one is
// the toolchain that go.mod and the Containerfile name.
const goFloor = "go1.26.11 go1.27.4"

// oldGo is the warning about the Go that built the program, or "" if it is no
// older than the floor of its minor (OPS-20).
func oldGo(built string) string {
	built, _, _ = strings.Cut(built, " ") // "go1.27.4 X:experiment"
	if !goversion.IsValid(built) {
		return "built by " + built + ", which can't be compared with the oldest safe Go (" + goFloor + ")"
	}
	floors := strings.Fields(goFloor)
	for _, floor := range floors {
		if goversion.Lang(built) == goversion.Lang(floor) {
			return olderThan(built, floor)
		}
	}
	return olderThan(built, floors[len(floors)-1])
}

func olderThan(built, floor string) string {
	if goversion.Compare(built, floor) >= 0 {
		return ""
	}
	return "built by " + built + ", whose standard library has known holes that clients can reach: build with " + floor + " or newer"
}
