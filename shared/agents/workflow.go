package agents

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Workflow is what a file's agents do in turn: its steps, or the tasks that
// stand under its agents. It is not an agent, and no list of agents shows it.
type Workflow struct {
	Name      string            // the name to ask for it by, no agent's; may be empty
	Input     string            // what to work on if a request brings nothing; may be empty
	Variables map[string]string // texts for {{name}}; the name is never input or previous_output
	Steps     []Step            // at least one, at most maxSteps
}

// Step is one agent's part of a workflow. All texts are trimmed.
type Step struct {
	Name           string // as the file has it, else "step 2"; not unique where two agents' tasks share one
	Agent          string // one of the file's agents
	Instruction    string // never empty
	ExpectedOutput string // may be empty
}

// Bounds of what one request can make a deployment do.
const (
	maxSteps     = 100
	maxVariables = 100
)

// workflow is the workflow of a file with the given agents, nil if it has none.
func (d document) workflow(agents []agentFields) (*Workflow, error) {
	input, err := oneOf(trimmed(d.Input.Value), trimmed(d.Topic.Value))
	if err != nil {
		return nil, err
	}
	if d.Name.IsSet() {
		if err := checkName(d.Name.Value); err != nil {
			return nil, err
		}
	}
	steps, err := d.steps(agents)
	if err != nil {
		return nil, err
	}
	if len(steps) == 0 {
		d.leaveWorkflow()
		return nil, nil
	}
	if len(steps) > maxSteps {
		return nil, steps[maxSteps].at.errorf("is step %d; a workflow may have %d", maxSteps+1, maxSteps)
	}

	w := &Workflow{Name: d.Name.V, Input: input.V, Variables: d.Variables.texts}
	var names []string
	for _, a := range agents {
		names = append(names, a.name)
	}
	if w.Name != "" && slices.Contains(names, w.Name) {
		return nil, fmt.Errorf("%s: is an agent's name, too; choose another", d.Name.Where)
	}
	filled := w.replacer("", "")
	for i, fields := range steps {
		step, err := fields.step(i, names)
		if err != nil {
			return nil, err
		}
		w.Steps = append(w.Steps, step)
		if leavesPlaceholder(filled.Replace(step.Instruction), filled.Replace(step.ExpectedOutput)) {
			fields.at.path = "a {{…}} in " + fields.at.path
			fields.at.actsOnNothing()
		}
	}
	return w, nil
}

// leaveWorkflow tells of the fields that only a workflow acts on.
func (d document) leaveWorkflow() {
	for _, at := range []spot{d.Name.at, d.Input.at, d.Topic.at, d.Variables.at} {
		if at.isSet() {
			at.actsOnNothing()
		}
	}
}

// steps are those of the top level, or else those under the agents.
func (d document) steps(agents []agentFields) ([]stepFields, error) {
	top := d.Steps
	switch {
	case !top.at.isSet():
		top = d.Tasks
	case d.Tasks.at.isSet():
		return nil, d.Tasks.at.errorf("is another name for steps, in line %d; keep one", top.at.line)
	}
	steps := top.all
	for _, a := range agents {
		if !a.Tasks.at.isSet() {
			continue
		}
		if top.at.isSet() {
			return nil, a.Tasks.at.errorf("the steps are at the top of the file, in line %d; move these there", top.at.line)
		}
		for _, task := range a.Tasks.all {
			if task.Agent.IsSet() && task.Agent.V != a.name {
				return nil, fmt.Errorf("%s: a task under an agent is that agent's; delete the line, or move the task", task.Agent.Where)
			}
			task.Agent = Value[string]{a.name, task.at.String()}
			steps = append(steps, task)
		}
	}
	return steps, nil
}

// step is the i-th step that the fields describe, by one of the named agents.
func (s stepFields) step(i int, agents []string) (Step, error) {
	switch {
	case s.Type.IsSet() && s.Type.V != "task" && s.Type.V != "agent":
		return Step{}, fmt.Errorf("%s: must be task or agent, as Postern has no other of PraisonAI's kinds of step; delete the line, or write task", s.Type.Where)
	case !s.Agent.IsSet():
		return Step{}, s.at.errorf("has no agent; add `agent:` and the name of one")
	case !slices.Contains(agents, s.Agent.V):
		few := agents[:min(len(agents), maxWarned)]
		return Step{}, fmt.Errorf("%s: there is no such agent; %s", s.Agent.Where, cure(s.Agent.V, agents, "there is "+strings.Join(few, ", ")))
	}
	instruction, err := oneOf(trimmed(s.Action), trimmed(s.Description), trimmed(s.Task))
	if err != nil {
		return Step{}, err
	}
	return Step{
		Name:           cmp.Or(s.name, fmt.Sprintf("step %d", i+1)),
		Agent:          s.Agent.V,
		Instruction:    cmp.Or(instruction.V, "{{input}}"),
		ExpectedOutput: strings.TrimSpace(s.ExpectedOutput.V),
	}, nil
}

// leavesPlaceholder reports whether a {{name}} is left in what a step is filled
// to, as those that PraisonAI has for dates.
func leavesPlaceholder(texts ...string) bool {
	return slices.ContainsFunc(texts, func(text string) bool {
		_, after, found := strings.Cut(text, "{{")
		return found && strings.Contains(after, "}}")
	})
}
