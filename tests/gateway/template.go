package gateway

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

const (
	account = "123456789012"
	region  = "us-east-1"
)

// Deployment is what a deployment knows beyond the template.
type Deployment struct {
	// Parameters override the template's defaults. A name that the template
	// doesn't declare, or a value that it doesn't allow, is an error of Parse.
	Parameters map[string]string
	// Values stand for what CloudFormation finds out by creating resources:
	// "TokenSecret" for !Ref TokenSecret, "Table.Arn" for !GetAtt Table.Arn.
	// What isn't here comes out as its own name, as in `sam local`.
	Values map[string]string
}

// template is a CloudFormation document and the means to evaluate parts of it.
// Nothing is evaluated before it is needed, so that a part which this package
// can't evaluate harms only those who ask for it.
type template struct {
	root       map[string]any
	deployment Deployment
	pending    []string // conditions under evaluation, against cycles
}

// call is an intrinsic function of CloudFormation: !Ref X or {Ref: X}.
type call struct {
	name string // "Ref", "Condition" or "Fn::…"
	arg  any
}

// noValue is AWS::NoValue: what it is assigned to doesn't exist.
type noValue struct{}

func parseTemplate(data []byte, d Deployment) (*template, error) {
	file, err := parser.ParseBytes(data, 0)
	if err != nil {
		return nil, fmt.Errorf("reading the template: %w", err)
	}
	if len(file.Docs) != 1 {
		return nil, fmt.Errorf("reading the template: %d documents, want one", len(file.Docs))
	}
	value, err := (&reader{anchors: map[string]any{}}).value(file.Docs[0].Body)
	if err != nil {
		return nil, fmt.Errorf("reading the template: %w", err)
	}
	root, ok := value.(map[string]any)
	if !ok {
		return nil, errors.New("reading the template: not a mapping")
	}
	t := &template{root: root, deployment: d}
	return t, t.checkParameters()
}

// reader turns YAML's nodes into maps, lists, scalars and calls.
type reader struct{ anchors map[string]any }

func (r *reader) value(node ast.Node) (any, error) {
	switch n := node.(type) {
	case nil:
		return nil, nil
	case *ast.NullNode:
		return nil, nil
	case *ast.TagNode:
		arg, err := r.value(n.Value)
		return call{intrinsic(n.Start.Value), arg}, err
	case *ast.AnchorNode:
		v, err := r.value(n.Value)
		r.anchors[n.Name.String()] = v
		return v, err
	case *ast.AliasNode:
		v, ok := r.anchors[n.Value.String()]
		if !ok {
			return nil, fmt.Errorf("line %d: unknown alias *%s", n.GetToken().Position.Line, n.Value)
		}
		return v, nil
	case *ast.LiteralNode:
		return n.Value.Value, nil
	case *ast.SequenceNode:
		list := make([]any, 0, len(n.Values))
		for _, item := range n.Values {
			v, err := r.value(item)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		return list, nil
	case *ast.MappingNode:
		return r.mapping(n.Values)
	case *ast.MappingValueNode:
		return r.mapping([]*ast.MappingValueNode{n})
	case ast.ScalarNode:
		return n.GetValue(), nil
	}
	return nil, fmt.Errorf("line %d: unsupported YAML (%s)", node.GetToken().Position.Line, node.Type())
}

func (r *reader) mapping(entries []*ast.MappingValueNode) (any, error) {
	m := make(map[string]any, len(entries))
	var merged []map[string]any
	for _, entry := range entries {
		v, err := r.value(entry.Value)
		if err != nil {
			return nil, err
		}
		if entry.Key.IsMergeKey() {
			from, ok := v.(map[string]any)
			if !ok {
				return nil, fmt.Errorf("line %d: << takes a mapping", entry.GetToken().Position.Line)
			}
			merged = append(merged, from)
			continue
		}
		key, ok := entry.Key.(ast.ScalarNode)
		if !ok {
			return nil, fmt.Errorf("line %d: a key must be a scalar", entry.GetToken().Position.Line)
		}
		m[fmt.Sprint(key.GetValue())] = v
	}
	for _, from := range merged {
		for k, v := range from {
			if _, own := m[k]; !own {
				m[k] = v
			}
		}
	}
	if len(m) == 1 && len(merged) == 0 {
		for name, arg := range m {
			if name == "Ref" || strings.HasPrefix(name, "Fn::") {
				return call{name, arg}, nil
			}
		}
	}
	return m, nil
}

// intrinsic is the long name of a short tag.
func intrinsic(tag string) string {
	name := strings.TrimPrefix(tag, "!")
	if name == "Ref" || name == "Condition" {
		return name
	}
	return "Fn::" + name
}

// section returns one of the template's own mappings, such as Resources.
func (t *template) section(name string) map[string]any {
	m, _ := t.root[name].(map[string]any)
	return m
}

func (t *template) checkParameters() error {
	for name, value := range t.deployment.Parameters {
		declared, ok := t.section("Parameters")[name].(map[string]any)
		if !ok {
			return fmt.Errorf("the template has no parameter %s", name)
		}
		if allowed, ok := declared["AllowedValues"].([]any); ok {
			if !slices.ContainsFunc(allowed, func(a any) bool { return text(a) == value }) {
				return fmt.Errorf("parameter %s allows %v, not %q", name, allowed, value)
			}
		}
		if pattern, ok := declared["AllowedPattern"].(string); ok {
			re, err := regexp.Compile(`^(?:` + pattern + `)$`)
			if err != nil {
				return fmt.Errorf("parameter %s: %w", name, err)
			}
			if !re.MatchString(value) {
				return fmt.Errorf("parameter %s allows %s, not %q", name, pattern, value)
			}
		}
	}
	return nil
}

// eval replaces every call in v by its result. Entries whose result is
// AWS::NoValue are left out.
func (t *template) eval(v any) (any, error) {
	switch v := v.(type) {
	case call:
		return t.call(v)
	case map[string]any:
		m := make(map[string]any, len(v))
		for k, item := range v {
			got, err := t.eval(item)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", k, err)
			}
			if _, none := got.(noValue); !none {
				m[k] = got
			}
		}
		return m, nil
	case []any:
		list := make([]any, 0, len(v))
		for _, item := range v {
			got, err := t.eval(item)
			if err != nil {
				return nil, err
			}
			if _, none := got.(noValue); !none {
				list = append(list, got)
			}
		}
		return list, nil
	}
	return v, nil
}

func (t *template) call(c call) (any, error) {
	switch c.name {
	case "Ref":
		return t.ref(text(c.arg))
	case "Fn::If":
		args, err := list(c, 3)
		if err != nil {
			return nil, err
		}
		yes, err := t.condition(text(args[0]))
		if err != nil {
			return nil, err
		}
		if yes {
			return t.eval(args[1])
		}
		return t.eval(args[2])
	case "Fn::GetAtt":
		return t.attribute(c.arg)
	case "Fn::Sub":
		return t.sub(c.arg)
	case "Fn::Join":
		return t.join(c)
	case "Fn::Equals", "Fn::And", "Fn::Or", "Fn::Not", "Condition":
		return t.truth(c)
	}
	return nil, fmt.Errorf("%s isn't supported here", c.name)
}

func (t *template) ref(name string) (any, error) {
	switch name {
	case "AWS::NoValue":
		return noValue{}, nil
	case "AWS::Region":
		return region, nil
	case "AWS::AccountId":
		return account, nil
	case "AWS::Partition":
		return "aws", nil
	case "AWS::URLSuffix":
		return "amazonaws.com", nil
	case "AWS::StackName":
		return "postern", nil
	}
	if declared, ok := t.section("Parameters")[name].(map[string]any); ok {
		value, ok := t.deployment.Parameters[name]
		if !ok {
			if declared["Default"] == nil {
				return nil, fmt.Errorf("parameter %s has neither a value nor a default", name)
			}
			value = text(declared["Default"])
		}
		if kind := text(declared["Type"]); kind == "CommaDelimitedList" || strings.HasPrefix(kind, "List<") {
			var items []any
			for item := range strings.SplitSeq(value, ",") {
				items = append(items, strings.TrimSpace(item))
			}
			return items, nil
		}
		return value, nil
	}
	if _, ok := t.section("Resources")[name]; !ok {
		return nil, fmt.Errorf("!Ref %s: neither a parameter nor a resource", name)
	}
	if value, ok := t.deployment.Values[name]; ok {
		return value, nil
	}
	return name, nil
}

func (t *template) attribute(arg any) (any, error) {
	path := text(arg)
	if parts, ok := arg.([]any); ok && len(parts) == 2 {
		path = text(parts[0]) + "." + text(parts[1])
	}
	name, attribute, _ := strings.Cut(path, ".")
	resource, ok := t.section("Resources")[name].(map[string]any)
	if !ok || attribute == "" {
		return nil, fmt.Errorf("!GetAtt %s: no such resource or attribute", path)
	}
	if value, ok := t.deployment.Values[path]; ok {
		return value, nil
	}
	if resource["Type"] == functionType && attribute == "Arn" {
		return functionARN(name), nil
	}
	return path, nil
}

func functionARN(name string) string {
	return "arn:aws:lambda:" + region + ":" + account + ":function:" + name
}

var placeholder = regexp.MustCompile(`\$\{([^}]*)\}`)

func (t *template) sub(arg any) (any, error) {
	format, own := text(arg), map[string]any(nil)
	if parts, ok := arg.([]any); ok && len(parts) == 2 {
		format = text(parts[0])
		own, _ = parts[1].(map[string]any)
	}
	var failed error
	out := placeholder.ReplaceAllStringFunc(format, func(match string) string {
		name := strings.TrimSpace(match[2 : len(match)-1])
		if literal, ok := strings.CutPrefix(name, "!"); ok {
			return "${" + literal + "}"
		}
		var v any
		var err error
		if mine, ok := own[name]; ok {
			v, err = t.eval(mine)
		} else if strings.Contains(name, ".") {
			v, err = t.attribute(name)
		} else {
			v, err = t.ref(name)
		}
		failed = errors.Join(failed, err)
		return text(v)
	})
	return out, failed
}

func (t *template) join(c call) (any, error) {
	args, err := list(c, 2)
	if err != nil {
		return nil, err
	}
	got, err := t.eval(args[1])
	if err != nil {
		return nil, err
	}
	items, ok := got.([]any)
	if !ok {
		return nil, errors.New("Fn::Join takes a separator and a list")
	}
	var parts []string
	for _, item := range items {
		parts = append(parts, text(item))
	}
	return strings.Join(parts, text(args[0])), nil
}

// condition evaluates one entry of Conditions.
func (t *template) condition(name string) (bool, error) {
	body, ok := t.section("Conditions")[name]
	if !ok {
		return false, fmt.Errorf("unknown condition %q", name)
	}
	if slices.Contains(t.pending, name) {
		return false, fmt.Errorf("condition %s depends on itself", name)
	}
	t.pending = append(t.pending, name)
	defer func() { t.pending = t.pending[:len(t.pending)-1] }()
	yes, err := t.truth(body)
	if err != nil {
		return false, fmt.Errorf("condition %s: %w", name, err)
	}
	return yes, nil
}

func (t *template) truth(v any) (bool, error) {
	if m, ok := v.(map[string]any); ok && len(m) == 1 && m["Condition"] != nil {
		return t.condition(text(m["Condition"]))
	}
	c, ok := v.(call)
	if !ok {
		return false, fmt.Errorf("%v is no condition", v)
	}
	if c.name == "Condition" {
		return t.condition(text(c.arg))
	}
	args, ok := c.arg.([]any)
	if !ok || len(args) == 0 {
		return false, fmt.Errorf("%s takes a list", c.name)
	}
	if c.name == "Fn::Equals" {
		if _, err := list(c, 2); err != nil {
			return false, err
		}
		left, err := t.eval(args[0])
		if err != nil {
			return false, err
		}
		right, err := t.eval(args[1])
		return text(left) == text(right), err
	}
	all, some := true, false
	for _, arg := range args {
		yes, err := t.truth(arg)
		if err != nil {
			return false, err
		}
		all, some = all && yes, some || yes
	}
	switch c.name {
	case "Fn::And":
		return all, nil
	case "Fn::Or":
		return some, nil
	case "Fn::Not":
		return !all, nil
	}
	return false, fmt.Errorf("%s is no condition", c.name)
}

func list(c call, n int) ([]any, error) {
	args, ok := c.arg.([]any)
	if !ok || len(args) != n {
		return nil, fmt.Errorf("%s takes a list of %d", c.name, n)
	}
	return args, nil
}

// text is a scalar as CloudFormation hands it on; all others come out empty.
func text(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case nil, map[string]any, []any, call, noValue:
		return ""
	}
	return fmt.Sprint(v)
}
