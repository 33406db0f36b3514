# What every pod must be, and what schemas and checkov do not say. `input` is a Pod or any object.
package cytosynth

import rego.v1

containers contains c if some c in input.spec.containers

containers contains c if some c in input.spec.initContainers

long_lived if {
	input.kind == "Pod"
	input.spec.restartPolicy != "OnFailure"
}

long_lived if {
	input.kind == "Pod"
	not input.spec.restartPolicy
}

deny contains "the pod may run as root" if {
	input.kind == "Pod"
	not input.spec.securityContext.runAsNonRoot == true
}

deny contains "the pod has no seccomp profile" if {
	input.kind == "Pod"
	not input.spec.securityContext.seccompProfile.type == "RuntimeDefault"
}

deny contains "the pod has no priority class" if {
	input.kind == "Pod"
	not input.spec.priorityClassName
}

deny contains "the pod has no component label" if {
	input.kind == "Pod"
	not input.metadata.labels["app.kubernetes.io/component"]
}

deny contains sprintf("container %s may gain privileges", [c.name]) if {
	input.kind == "Pod"
	some c in containers
	not c.securityContext.allowPrivilegeEscalation == false
}

deny contains sprintf("container %s can write its root file system", [c.name]) if {
	input.kind == "Pod"
	some c in containers
	not c.securityContext.readOnlyRootFilesystem == true
}

deny contains sprintf("container %s keeps capabilities", [c.name]) if {
	input.kind == "Pod"
	some c in containers
	not "ALL" in c.securityContext.capabilities.drop
}

deny contains sprintf("container %s has no %s %s", [c.name, amount, kind]) if {
	input.kind == "Pod"
	some c in containers
	some kind in ["requests", "limits"]
	some amount in ["cpu", "memory"]
	not c.resources[kind][amount]
}

deny contains sprintf("container %s has no %s", [c.name, probe]) if {
	long_lived
	some c in input.spec.containers
	some probe in ["startupProbe", "readinessProbe", "livenessProbe"]
	not c[probe]
}

deny contains sprintf("container %s has an image without a fixed version: %s", [c.name, c.image]) if {
	input.kind == "Pod"
	some c in containers
	not regex.match(`:v?[0-9][^/]*$|@sha256:`, c.image)
}

deny contains sprintf("container %s has a secret in plain text: %s", [c.name, e.name]) if {
	input.kind == "Pod"
	some c in containers
	some e in c.env
	e.value
	regex.match(`password|secret|token|access_key|database_url`, lower(e.name))
}

deny contains sprintf("volume %s is a folder of the node", [v.name]) if {
	input.kind == "Pod"
	some v in input.spec.volumes
	v.hostPath
}

deny contains "the pod asks for a GPU but does not tolerate GPU nodes" if {
	input.kind == "Pod"
	some c in containers
	c.resources.limits["nvidia.com/gpu"]
	not tolerates_gpu
}

tolerates_gpu if {
	some t in input.spec.tolerations
	t.key == "nvidia.com/gpu"
}
