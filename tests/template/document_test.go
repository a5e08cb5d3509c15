// Package template_test holds template.yaml to the rest of Postern: to the
// route table, to the error table, and to what must not be loosened unnoticed.
//
// It reads the template twice. As it is written, with nothing but Go
// (template_test.go); and as CloudFormation will see it, after the transform of
// AWS's own SAM translator (transform_test.go), because SAM drops in silence
// what it doesn't know. cfn-lint is asked as well. Where a machine lacks Python,
// the translator or cfn-lint, those tests are skipped by name; with CI=true
// that is a failure.
package template_test

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

const templateFile = "../../template.yaml"

// object is a mapping of the template. Intrinsic functions stand in it in their
// long form: !Ref Api is object{"Ref": "Api"}.
type object = map[string]any

var written = sync.OnceValues(func() (object, error) {
	source, err := os.ReadFile(templateFile)
	if err != nil {
		return nil, err
	}
	file, err := parser.ParseBytes(source, 0)
	if err != nil {
		return nil, err
	}
	if len(file.Docs) != 1 {
		return nil, fmt.Errorf("%d documents", len(file.Docs))
	}
	r := reader{anchors: object{}}
	doc, _ := r.value(file.Docs[0].Body).(object)
	return doc, r.err
})

// template returns template.yaml as it is written. It is shared: don't change it.
func template(t *testing.T) object {
	t.Helper()
	doc, err := written()
	if err != nil {
		t.Fatalf("reading template.yaml: %v", err)
	}
	return doc
}

// reader turns YAML nodes into values, with anchors and merge keys resolved.
type reader struct {
	anchors object
	err     error
}

func (r *reader) value(n ast.Node) any {
	switch n := n.(type) {
	case *ast.AnchorNode:
		v := r.value(n.Value)
		r.anchors[n.Name.String()] = v
		return v
	case *ast.AliasNode:
		v, ok := r.anchors[n.Value.String()]
		if !ok {
			r.fail(n, "unknown alias")
		}
		return v
	case *ast.TagNode:
		return r.intrinsic(n)
	case *ast.MappingNode:
		return r.mapping(n.Values)
	case *ast.MappingValueNode:
		return r.mapping([]*ast.MappingValueNode{n})
	case *ast.SequenceNode:
		list := make([]any, len(n.Values))
		for i := range n.Values {
			list[i] = r.value(n.Values[i])
		}
		return list
	case *ast.LiteralNode:
		return n.Value.Value
	case *ast.IntegerNode:
		return fmt.Sprint(n.Value) // numbers as text, as CloudFormation keeps them
	case *ast.FloatNode:
		return n.GetToken().Value
	case ast.ScalarNode:
		return n.GetValue()
	default:
		r.fail(n, "unexpected node")
		return nil
	}
}

func (r *reader) mapping(pairs []*ast.MappingValueNode) object {
	m, merged := object{}, object{}
	for _, p := range pairs {
		v := r.value(p.Value)
		if _, ok := p.Key.(*ast.MergeKeyNode); ok {
			o, ok := v.(object)
			if !ok {
				r.fail(p, "merging what is no mapping")
			}
			for k, v := range o {
				merged[k] = v
			}
			continue
		}
		k := p.Key.GetToken().Value
		if _, ok := m[k]; ok {
			r.fail(p, "key given twice")
		}
		m[k] = v
	}
	for k, v := range merged {
		if _, ok := m[k]; !ok {
			m[k] = v
		}
	}
	return m
}

func (r *reader) intrinsic(n *ast.TagNode) any {
	name, v := strings.TrimPrefix(n.Start.Value, "!"), r.value(n.Value)
	switch name {
	case "Ref", "Condition":
		return object{name: v}
	case "GetAtt":
		if s, ok := v.(string); ok {
			resource, attribute, _ := strings.Cut(s, ".")
			v = []any{resource, attribute}
		}
	}
	return object{"Fn::" + name: v}
}

func (r *reader) fail(n ast.Node, what string) {
	if r.err == nil {
		r.err = fmt.Errorf("line %d: %s", n.GetToken().Position.Line, what)
	}
}

// dig follows keys down from v; what isn't there is nil.
func dig(v any, keys ...string) any {
	for _, k := range keys {
		m, _ := v.(object)
		v = m[k]
	}
	return v
}

// digObject is dig for what must be a mapping.
func digObject(t *testing.T, v any, keys ...string) object {
	t.Helper()
	m, ok := dig(v, keys...).(object)
	if !ok {
		t.Fatalf("no mapping at %s", strings.Join(keys, "."))
	}
	return m
}

// resources returns the properties of every resource of one type, by logical id.
func resources(t *testing.T, doc object, kind string) map[string]object {
	t.Helper()
	found := map[string]object{}
	for id, r := range digObject(t, doc, "Resources") {
		if dig(r, "Type") == kind {
			found[id] = digObject(t, r, "Properties")
		}
	}
	if len(found) == 0 {
		t.Fatalf("the template has no %s", kind)
	}
	return found
}

// each calls f on every mapping inside v, v too.
func each(v any, f func(object)) {
	switch v := v.(type) {
	case object:
		f(v)
		for _, x := range v {
			each(x, f)
		}
	case []any:
		for _, x := range v {
			each(x, f)
		}
	}
}
