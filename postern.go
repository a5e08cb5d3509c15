// Package postern holds the files that `postern init` gives a new user. The
// program is cmd/postern; the library is nobody's but ours, under shared/.
package postern

import _ "embed"

// SampleAgents is agents.yaml as `postern init` writes it: three agents that
// work offline.
//
//go:embed agents.yaml
var SampleAgents []byte

// AgentsSchema is the JSON Schema of agents.yaml, for editors.
//
//go:embed agents.schema.json
var AgentsSchema []byte
