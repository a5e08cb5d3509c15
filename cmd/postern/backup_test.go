package main

import "github.com/rogpeppe/go-internal/testscript"

// crash ends the server as kill -9 and a loss of power do: it leaves its
// database's log.
func crashCommand(ts *testscript.TestScript, _ bool, _ []string) {
	s := *ts.Value(serverKey{}).(**server)
	if s == nil {
		ts.Fatalf("no server runs")
	}
	s.kill()
}
