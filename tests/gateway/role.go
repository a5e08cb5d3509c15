package gateway

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
)

const roleType = "AWS::IAM::Role"

// Role is what IAM lets a function do. It is a small model of how IAM evaluates
// the policies of a role (IAM User Guide, "Policy evaluation logic"): what no
// statement allows is denied.
//
// It knows statements that allow, * and ? in actions and resources, and one
// condition, ForAllValues:StringLike of dynamodb:LeadingKeys. Parse refuses a
// template whose roles say anything else. Left out are managed policies, whose
// text isn't in the template (ChatPolicyArns could allow more), and all that can
// only take away: boundaries, service control policies, policies of resources.
type Role []Statement

// Statement allows each of Actions on each of Resources.
type Statement struct {
	Actions, Resources []string
	// LeadingKeys are patterns of partition keys; nil: there is no such condition.
	LeadingKeys []string
}

// Allows says whether a call is allowed. leadingKey is the partition key that a
// GetItem, PutItem, UpdateItem, DeleteItem or Query names; "" stands for none, as
// in all other calls. ForAllValues is true of none: a condition on leading keys
// doesn't hold back a Scan (DynamoDB Developer Guide, "Using IAM policy conditions
// for fine-grained access control"; IAM User Guide, "Set operators for
// multivalued context keys").
func (r Role) Allows(action, resource, leadingKey string) bool {
	return slices.ContainsFunc(r, func(s Statement) bool {
		return like(s.Actions, action, strings.ToLower) && like(s.Resources, resource, exactly) &&
			(s.LeadingKeys == nil || leadingKey == "" || like(s.LeadingKeys, leadingKey, exactly))
	})
}

func like(patterns []string, s string, fold func(string) string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return wildcard(fold(p), fold(s)) })
}

func exactly(s string) string { return s }

// Account is who has which role: what fakes of services ask before they serve a
// call. The zero value has nobody, and denies all. It is safe for concurrent use.
type Account struct{ roles sync.Map }

// Assume gives a role to whoever signs with that access key's id.
func (a *Account) Assume(accessKeyID string, r Role) { a.roles.Store(accessKeyID, r) }

// Allows is Role's, for who signed the call.
func (a *Account) Allows(accessKeyID, action, resource, leadingKey string) bool {
	r, known := a.roles.Load(accessKeyID)
	return known && r.(Role).Allows(action, resource, leadingKey)
}

// role reads the role that a function names; nil: it names none.
func (t *template) role(function map[string]any) (Role, error) {
	if function["Policies"] != nil {
		return nil, errors.New("policies of the function itself aren't supported here")
	}
	arn, err := t.eval(function["Role"])
	if err != nil || arn == nil {
		return nil, err
	}
	roles, err := t.resources(roleType)
	if err != nil {
		return nil, err
	}
	name := strings.TrimSuffix(text(arn), ".Arn")
	properties, there := roles[name]
	if !there {
		return nil, fmt.Errorf("the Role is no !GetAtt of a role in the template: %q", text(arn))
	}
	policies, err := t.eval(properties["Policies"])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	role := Role{}
	for _, policy := range elements(policies) {
		statements := object(object(policy)["PolicyDocument"])["Statement"]
		if one, ok := statements.(map[string]any); ok {
			statements = []any{one}
		}
		for _, v := range elements(statements) {
			s, err := readStatement(object(v))
			if err != nil {
				return nil, fmt.Errorf("%s, policy %s: %w", name, text(object(policy)["PolicyName"]), err)
			}
			role = append(role, s)
		}
	}
	return role, nil
}

func readStatement(v map[string]any) (Statement, error) {
	for field := range v {
		if !slices.Contains([]string{"Sid", "Effect", "Action", "Resource", "Condition"}, field) {
			return Statement{}, fmt.Errorf("%s isn't supported here", field)
		}
	}
	s := Statement{Actions: texts(v["Action"]), Resources: texts(v["Resource"])}
	if v["Effect"] != "Allow" || len(s.Actions) == 0 || len(s.Resources) == 0 {
		return Statement{}, errors.New("only statements are supported here that allow actions on resources")
	}
	if v["Condition"] == nil {
		return s, nil
	}
	operators := object(v["Condition"])
	keys := object(operators["ForAllValues:StringLike"])
	s.LeadingKeys = texts(keys["dynamodb:LeadingKeys"])
	if len(operators) != 1 || len(keys) != 1 || len(s.LeadingKeys) == 0 {
		return Statement{}, fmt.Errorf("only the condition ForAllValues:StringLike of dynamodb:LeadingKeys is supported here: %v", operators)
	}
	return s, nil
}
