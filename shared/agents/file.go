// Package agents knows the agents of a deployment: agents.yaml, and the prompt
// that an agent's fields make.
//
// The file is strict. It is one YAML document of fields that Postern knows,
// with no anchors, aliases, merge keys or tags; each agent's name occurs once;
// at least one agent is there. Anything else is refused with one line that
// names the place, the fault and the cure:
//
//	agents.yaml:12: agents.sumfrench.instrutions: unknown field; did you mean "instructions"?
//
// Two rules keep that safe. An error names keys and lines and never repeats a
// value, because any value may be a mistyped secret (auth_token is one, and is
// held in a secret.String). And the work is bounded before the YAML parser runs:
// by size, by number of tokens and by depth.
//
// The types of schema.go are the file's only description: the reader fills
// them, and agents.schema.json, which gives editors completion, is generated
// from them. Where the contract has an order of precedence (an agent's llm,
// the file's llm, the MODEL setting), Load has already applied it.
package agents

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"postern/shared/model"
)

// File is a valid agents.yaml.
type File struct {
	Agents []Agent // at least one, in the file's order, each name once
	Deploy Deploy
}

// Agent is one agent with its defaults filled in. All texts are trimmed; at
// least one of Role, Goal and Instructions is not empty.
type Agent struct {
	Name         string // see validName
	Description  string // public; else the role, else the goal; may be empty
	Role         string
	Goal         string
	Instructions string // never shown to callers
	Model        model.Name
	ModelWhere   string // "agents.yaml:5: agents.sumfrench.llm"; empty if Model is the fallback
}

// maxSize is the largest agents.yaml, in bytes.
const maxSize = 1 << 20

// Load reads the file at path. The fallback, "provider/name", is the model of
// agents that name none in a file that names none: the MODEL setting. A missing
// file is an error, never an empty or a default one.
func Load(path, fallback string) (*File, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, spot{file: path}.errorf("no such file; run `postern init` to write one, or name another with --agents")
	}
	if err != nil {
		return nil, fmt.Errorf("reading the agents file: %w", err)
	}
	defer f.Close()

	data, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, fmt.Errorf("reading the agents file: %w", err)
	}
	return Parse(path, data, fallback)
}

// Parse is Load for text in memory; name stands for the file in errors.
func Parse(name string, data []byte, fallback string) (*File, error) {
	inherited, err := model.ParseName(fallback)
	if err != nil {
		return nil, fmt.Errorf("MODEL: %w", err)
	}
	at := spot{file: name}
	root, err := parseYAML(data, at)
	if err != nil {
		return nil, err
	}
	var doc document
	if err := readFields(root, at, &doc); err != nil {
		return nil, err
	}
	return doc.file(at, inherited)
}

// file says what the fields mean together.
func (d document) file(at spot, fallback model.Name) (*File, error) {
	if len(d.Agents) == 0 {
		return nil, at.errorf("has no agents; add one under `agents:`, or run `postern init` for a sample")
	}
	if d.Deploy.Type.IsSet() && d.Deploy.Type.V != "api" {
		return nil, fmt.Errorf("%s: only api can be deployed from here; delete the line", d.Deploy.Type.Where)
	}

	f := &File{Deploy: d.Deploy.API}
	seen := map[string]spot{}
	for _, fields := range d.Agents {
		if first, twice := seen[fields.name]; twice {
			return nil, fields.at.errorf("this name is already in line %d; choose another", first.line)
		}
		seen[fields.name] = fields.at

		agent, err := fields.agent()
		if err != nil {
			return nil, err
		}
		switch {
		case fields.LLM.IsSet():
			agent.Model, agent.ModelWhere = fields.LLM.V, fields.LLM.Where
		case d.LLM.IsSet():
			agent.Model, agent.ModelWhere = d.LLM.V, d.LLM.Where
		default:
			agent.Model = fallback
		}
		f.Agents = append(f.Agents, agent)
	}
	return f, nil
}

// agent is the agent that the fields describe, its model aside.
func (a agentFields) agent() (Agent, error) {
	instructions, backstory := strings.TrimSpace(a.Instructions.V), strings.TrimSpace(a.Backstory.V)
	if instructions != "" && backstory != "" && instructions != backstory {
		return Agent{}, fmt.Errorf("%s: is another name for instructions, and the two differ; keep one", a.Backstory.Where)
	}
	agent := Agent{
		Name:         a.name,
		Description:  strings.TrimSpace(a.Description.V),
		Role:         strings.TrimSpace(a.Role.V),
		Goal:         strings.TrimSpace(a.Goal.V),
		Instructions: firstOf(instructions, backstory),
	}
	agent.Description = firstOf(agent.Description, agent.Role, agent.Goal)
	if agent.SystemPrompt() == "" {
		return Agent{}, a.at.errorf("says nothing to the model; write instructions, or a role and a goal")
	}
	return agent, nil
}

// firstOf is the first text that is not empty.
func firstOf(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}
