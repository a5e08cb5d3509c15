package gateway_test

import (
	"strings"
	"testing"

	"postern/tests/gateway"
)

// granting is the role of F in a template with that one statement, and one more
// under the condition More.
func granting(t *testing.T, statement string, more bool) (gateway.Role, error) {
	t.Helper()
	template := "Parameters: {M: {Type: String, Default: ''}}\nConditions: {More: !Not [!Equals [!Ref M, '']]}\n" +
		strings.Replace(minimal(""), "    Properties:\n      Events:", "    Properties:\n      Role: !GetAtt R.Arn\n      Events:", 1) + `
  Table: {Type: AWS::DynamoDB::Table}
  R:
    Type: AWS::IAM::Role
    Properties:
      Policies:
        - PolicyName: one
          PolicyDocument: {Version: '2012-10-17', Statement: [` + statement + `]}
        - !If
          - More
          - {PolicyName: more, PolicyDocument: {Statement: {Effect: Allow, Action: 'a:Other', Resource: !Ref M}}}
          - !Ref AWS::NoValue
`
	d := gateway.Deployment{Values: map[string]string{"Table.Arn": "arn:table/t"}}
	if more {
		d.Parameters = map[string]string{"M": "arn:m"}
	}
	api, err := gateway.Parse([]byte(template), d)
	if err != nil {
		return nil, err
	}
	return api.Functions["F"].Role, nil
}

const leading = `{Effect: Allow, Action: ['dynamodb:GetItem', 'dynamodb:Scan'], Resource: !GetAtt Table.Arn, Condition: {'ForAllValues:StringLike': {'dynamodb:LeadingKeys': ['use#*', audit]}}}`

func TestARoleAllowsWhatAStatementDoes(t *testing.T) {
	t.Parallel()
	const whole = `{Effect: Allow, Action: 'dynamodb:Get*', Resource: ['arn:table/?', 'arn:other']}`
	for _, row := range []struct {
		name, statement              string
		action, resource, leadingKey string
		want                         bool
	}{
		{"its action on its resource", leading, "dynamodb:GetItem", "arn:table/t", "use#root", true},
		{"the other pattern", leading, "dynamodb:GetItem", "arn:table/t", "audit", true},
		{"an action in another case, as IAM has it", leading, "dynamodb:getitem", "arn:table/t", "audit", true},
		{"another action", leading, "dynamodb:PutItem", "arn:table/t", "audit", false},
		{"another resource", leading, "dynamodb:GetItem", "arn:table/tt", "audit", false},
		{"a resource in another case", leading, "dynamodb:GetItem", "arn:Table/t", "audit", false},
		{"another partition", leading, "dynamodb:GetItem", "arn:table/t", "session#root", false},
		{"a partition that begins like a whole one", leading, "dynamodb:GetItem", "arn:table/t", "audit#1", false},
		{"a partition in another case", leading, "dynamodb:GetItem", "arn:table/t", "Audit", false},
		{"no partition, of which all is true", leading, "dynamodb:Scan", "arn:table/t", "", true},
		{"any partition without a condition", whole, "dynamodb:GetItem", "arn:table/t", "x", true},
		{"a wildcard's action", whole, "dynamodb:GetRecords", "arn:other", "", true},
		{"an action beyond the wildcard", whole, "dynamodb:PutItem", "arn:other", "", false},
		{"a conditional policy whose condition is false", whole, "a:Other", "arn:m", "", false},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			role, err := granting(t, row.statement, false)
			if err != nil {
				t.Fatal(err)
			}
			if got := role.Allows(row.action, row.resource, row.leadingKey); got != row.want {
				t.Errorf("allowed: %v", got)
			}
		})
	}
	if role, err := granting(t, whole, true); err != nil || !role.Allows("a:Other", "arn:m", "") || role.Allows("a:Other", "arn:other", "") {
		t.Errorf("a conditional policy whose condition is true: %v, %v", role, err)
	}
	if (gateway.Role(nil)).Allows("a:b", "c", "") {
		t.Error("a function without a role may do something")
	}
}

func TestRolesThatThisModelWouldGetWrong(t *testing.T) {
	t.Parallel()
	for name, statement := range map[string]string{
		"a Deny":                 `{Effect: Deny, Action: 'a:b', Resource: '*'}`,
		"no resource":            `{Effect: Allow, Action: 'a:b'}`,
		"NotAction":              `{Effect: Allow, NotAction: 'a:b', Resource: '*'}`,
		"another operator":       strings.Replace(leading, "StringLike", "StringEquals", 1),
		"one value of several":   strings.Replace(leading, "ForAllValues", "ForAnyValue", 1),
		"another condition key":  strings.Replace(leading, "LeadingKeys", "Attributes", 1),
		"two conditions":         strings.Replace(leading, "}}}", "}, Bool: {'aws:SecureTransport': 'true'}}}", 1),
		"a condition of nothing": strings.Replace(leading, "['use#*', audit]", "[]", 1),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if role, err := granting(t, statement, false); err == nil || !strings.Contains(err.Error(), "supported here") {
				t.Errorf("%v, %v", role, err)
			}
		})
	}
	for name, property := range map[string]string{"policies of its own": "Policies: [AWSLambdaExecute]", "a role from elsewhere": "Role: arn:role"} {
		_, err := gateway.Parse([]byte(strings.Replace(minimal(""), "      Events:", "      "+property+"\n      Events:", 1)), gateway.Deployment{})
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestAnAccountKnowsWhoHasWhichRole(t *testing.T) {
	t.Parallel()
	var a gateway.Account
	a.Assume("F", gateway.Role{{Actions: []string{"a:b"}, Resources: []string{"*"}}})
	if !a.Allows("F", "a:b", "c", "") || a.Allows("F", "a:c", "c", "") || a.Allows("G", "a:b", "c", "") {
		t.Error("not the roles that were assumed")
	}
}

// Who reaches which partitions of our table, all actions together: what is a
// secret, what can't be made up, and what callers said.
func TestOurRolesReachTheirPartitionsAlone(t *testing.T) {
	t.Parallel()
	const table = "arn:the-table"
	api, err := gateway.Load("../../template.yaml", gateway.Deployment{Values: map[string]string{"Table.Arn": table}})
	if err != nil {
		t.Fatal(err)
	}
	actions := map[string]string{"r": "GetItem", "w": "PutItem", "c": "UpdateItem", "d": "DeleteItem", "l": "Query", "!": "Scan"}
	want := map[string]string{
		"AuthorizerFunction": "key#:r",
		"AgentsFunction":     "use#:rwc hours#:rwc",
		"ChatFunction":       "use#:rwc hours#:rwc budget#:rwc session#:rw replay#:rwd job#:rwd jobs#:rwd",
		"WorkerFunction":     "key#:r use#:rwc hours#:rwc budget#:rwc session#:rw job#:rwd",
		"JobsFunction":       "use#:rwc hours#:rwc session#:rd job#:rwdl jobs#:rwdl",
		"KeysFunction":       "key#:rwl audit:rwl use#:rwcl hours#:rwcl",
		"HealthFunction":     "",
	}
	for id, f := range api.Functions {
		var reached []string
		for _, partition := range []string{"key#", "audit", "use#", "hours#", "budget#", "session#", "replay#", "job#", "jobs#", "else#"} {
			key, can := partition, ""
			if strings.HasSuffix(partition, "#") {
				key += "x"
			}
			for _, letter := range []string{"r", "w", "c", "d", "l", "!"} {
				if f.Role.Allows("dynamodb:"+actions[letter], table, key) {
					can += letter
				}
			}
			if can != "" {
				reached = append(reached, partition+":"+can)
			}
		}
		if got := strings.Join(reached, " "); got != want[id] {
			t.Errorf("%s reaches %q, want %q", id, got, want[id])
		}
	}
}
