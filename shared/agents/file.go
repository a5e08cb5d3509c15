// Package agents knows the agents of a deployment, agents.yaml, and runs them:
// one agent that answers, or the file's workflow, whose steps agents do in turn.
//
// The file is strict. It is one YAML document of fields that Postern knows,
// with no anchors, aliases, merge keys or tags; each agent's name occurs once;
// at least one agent is there. Anything else is refused with one line that
// names the place, the fault and the cure:
//
//	agents.yaml:12: agents.sumfrench.instrutions: unknown field; did you mean "instructions"?
//
// Both shapes of PraisonAI's files are read. Its fields that nothing here acts
// on are known by name, take any value and are listed in File.Warnings; those
// whose absence would change what runs, as a step that loops, are refused.
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
//
// A Runner finds what a caller may use, by name, and runs it; handlers of any
// wire format are written on top of it. What a model is told is in prompt.go.
package agents

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"postern/shared/model"
)

// File is a valid agents.yaml.
type File struct {
	Agents   []Agent   // at least one, in the file's order, each name once
	Workflow *Workflow // nil: the file has no steps
	Deploy   Deploy
	Warnings []string // what to tell who starts or deploys this, a line each
}

// Agent is one agent with its defaults filled in. All texts are trimmed; at
// least one of Role, Goal and Instructions is not empty.
type Agent struct {
	Name         string // see validName
	Description  string // public; else the role, else the goal; may be empty
	Role         string
	Goal         string
	Instructions string // the file's backstory, then its instructions; never shown to callers
	Model        model.Name
	ModelWhere   string // "agents.yaml:5: agents.sumfrench.llm"; empty if Model is the fallback
}

// maxSize is the largest agents.yaml, in bytes.
const maxSize = 1 << 20

// Load reads the file at path. The fallback, "provider/name", is the model of
// agents that name none in a file that names none: the MODEL setting. A missing
// file is an error, never an empty or a default one.
func Load(path, fallback string) (*File, error) {
	info, err := os.Stat(path) // before it is opened, for which a pipe would take its time
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, spot{file: path}.errorf("no such file; run `postern init` to write one, or name another with --agents")
	case err != nil:
		return nil, fmt.Errorf("reading the agents file: %w", err)
	case !info.Mode().IsRegular():
		return nil, spot{file: path}.errorf("is a folder, a pipe or a device and no file; name a file with --agents or AGENTS_FILE")
	}
	f, err := os.Open(path)
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
	at := spot{file: name, idle: new([]spot)}
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
	if d.Agents.at.isSet() && d.Roles.at.isSet() {
		return nil, d.Roles.at.errorf("is another name for agents, in line %d; keep one", d.Agents.at.line)
	}
	listed := slices.Concat(d.Agents.all, d.Roles.all)
	if len(listed) == 0 {
		return nil, at.errorf("has no agents; add one under `agents:`, or run `postern init` for a sample")
	}
	switch kind := d.Deploy.Type; kind.V {
	case "", "api":
	case "docker", "cloud":
		kind.at.actsOnNothing()
	default:
		return nil, kind.at.errorf("must be api, docker or cloud, of which api alone is acted on; delete the line")
	}
	inherited, err := oneOf(d.LLM, d.Workflow.LLM, d.Workflow.DefaultLLM)
	if err != nil {
		return nil, err
	}
	if !inherited.IsSet() {
		inherited.V = fallback
	}

	f := &File{Deploy: d.Deploy.API}
	seen := map[string]spot{}
	for _, fields := range listed {
		if first, twice := seen[fields.name]; twice {
			return nil, fields.at.errorf("this name is already in line %d; choose another", first.line)
		}
		seen[fields.name] = fields.at

		agent, err := fields.agent(inherited)
		if err != nil {
			return nil, err
		}
		f.Agents = append(f.Agents, agent)
	}
	if f.Workflow, err = d.workflow(listed); err != nil {
		return nil, err
	}
	f.Warnings = warnings(at.file, *at.idle)
	return f, nil
}

// agent is the agent that the fields describe. It has the inherited model if it
// names none.
func (a agentFields) agent(inherited Value[model.Name]) (Agent, error) {
	llm, err := oneOf(a.LLM, a.Model)
	if err != nil {
		return Agent{}, err
	}
	if !llm.IsSet() {
		llm = inherited
	}
	agent := Agent{
		Name:         a.name,
		Description:  strings.TrimSpace(a.Description.V),
		Role:         strings.TrimSpace(a.Role.V),
		Goal:         strings.TrimSpace(a.Goal.V),
		Instructions: strings.TrimSpace(a.Backstory.V),
		Model:        llm.V,
		ModelWhere:   llm.Where,
	}
	if rest := strings.TrimSpace(a.Instructions.V); rest != agent.Instructions { // PraisonAI's samples have both
		agent.Instructions = strings.TrimSpace(agent.Instructions + "\n\n" + rest)
	}
	agent.Description = firstOf(agent.Description, agent.Role, agent.Goal)
	if agent.SystemPrompt() == "" {
		return Agent{}, a.at.errorf("says nothing to the model; write instructions, or a role and a goal")
	}
	return agent, nil
}

// oneOf is the field that the file has, of several names for one. Two of them
// may be there if they say the same.
func oneOf[T comparable](names ...Value[T]) (Value[T], error) {
	var field Value[T]
	for _, v := range names {
		switch {
		case !v.IsSet():
		case !field.IsSet():
			field = v
		case v.V != field.V:
			first := field.Where[strings.LastIndexAny(field.Where, ". ")+1:]
			return field, fmt.Errorf("%s: is another name for %s, and the two differ; keep one", v.Where, first)
		}
	}
	return field, nil
}

// trimmed is a text without the white space around it.
func trimmed(v Value[string]) Value[string] {
	v.V = strings.TrimSpace(v.V)
	return v
}

// maxWarned is how many fields a warning names.
const maxWarned = 30

// warnings says in one line which fields nothing acts on, in the file's order.
func warnings(file string, idle []spot) []string {
	if len(idle) == 0 {
		return nil
	}
	slices.SortStableFunc(idle, func(a, b spot) int { return a.line - b.line })
	var list []string
	for _, at := range idle[:min(len(idle), maxWarned)] {
		list = append(list, fmt.Sprintf("%s (line %d)", at.path, at.line))
	}
	if more := len(idle) - len(list); more > 0 {
		list = append(list, fmt.Sprintf("and %d more", more))
	}
	return []string{spot{file: file}.String() + ": not acted on: " + strings.Join(list, ", ")}
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
