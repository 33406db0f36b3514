# What the other objects must be.
package cytosynth

import rego.v1

deny contains "a Secret is written in plain text" if input.kind == "Secret"

deny contains sprintf("the ConfigMap holds what looks like a secret: %s", [key]) if {
	input.kind == "ConfigMap"
	some key, _ in input.data
	regex.match(`(^|_)(password|secret|token|access_key|database_url)(_|$)`, lower(key))
}

deny contains sprintf("the namespace does not enforce PodSecurity restricted: %s", [mode]) if {
	input.kind == "Namespace"
	some mode in ["enforce", "audit", "warn"]
	not input.metadata.labels[sprintf("pod-security.kubernetes.io/%s", [mode])] == "restricted"
}

deny contains "the Service is open to the outside" if {
	input.kind == "Service"
	input.spec.type in ["NodePort", "LoadBalancer"]
	not input.metadata.labels["app.kubernetes.io/component"] == "edge"
}

deny contains sprintf("the role may %s %s", [verb, resource]) if {
	input.kind in ["Role", "ClusterRole"]
	some rule in input.rules
	some resource in rule.resources
	some verb in rule.verbs
	not {"verb": verb, "resource": resource} in [{"verb": "create", "resource": "secrets"}]
}

deny contains sprintf("port %v of Serve is open to others than edge and operator", [port.port]) if {
	input.kind == "NetworkPolicy"
	some rule in input.spec.ingress
	some port in rule.ports
	port.port in [8000, 9000]
	not only_from_edge_or_operator(rule)
}

deny contains "the internal listener of the edge is open to others than the trainer" if {
	input.kind == "NetworkPolicy"
	some rule in input.spec.ingress
	some port in rule.ports
	port.port == 50052
	not rule.from[0].podSelector.matchLabels["app.kubernetes.io/component"] == "trainer"
}

deny contains "the policy lets everybody in on every port" if {
	input.kind == "NetworkPolicy"
	some rule in input.spec.ingress
	not rule.from
	not rule.ports
}

only_from_edge_or_operator(rule) if {
	count(rule.from) == 1
	rule.from[0].podSelector.matchLabels["app.kubernetes.io/component"] == "edge"
}

only_from_edge_or_operator(rule) if {
	count(rule.from) == 1
	rule.from[0].podSelector.matchLabels["app.kubernetes.io/name"] == "kuberay-operator"
}

deny contains "the upgrade strategy is not NewCluster: no other can route gRPC" if {
	input.kind == "RayService"
	not input.spec.upgradeStrategy.type == "NewCluster"
}

deny contains "Ray's processes take calls without a token" if {
	input.kind == "RayService"
	not input.spec.rayClusterConfig.authOptions.mode == "token"
}

deny contains "the head's state is lost with it: no GCS fault tolerance" if {
	input.kind == "RayService"
	not input.spec.rayClusterConfig.gcsFaultToleranceOptions.redisAddress
}

deny contains "the head has no port named serve-grpc" if {
	input.kind == "RayService"
	names := {p.name | some p in input.spec.rayClusterConfig.headGroupSpec.template.spec.containers[0].ports}
	not "serve-grpc" in names
}

deny contains "the autoscaler's container is not confined" if {
	input.kind == "RayService"
	input.spec.rayClusterConfig.enableInTreeAutoscaling
	not input.spec.rayClusterConfig.autoscalerOptions.securityContext.allowPrivilegeEscalation == false
}

deny contains "the autoscaler is not version v2" if {
	input.kind == "RayService"
	input.spec.rayClusterConfig.enableInTreeAutoscaling
	not input.spec.rayClusterConfig.autoscalerOptions.version == "v2"
}

certificate_keys := {
	"Certificate": {"secretName", "duration", "renewBefore", "privateKey", "usages", "dnsNames", "issuerRef"},
	"Issuer": {"ca"},
}

# cert-manager's schemas are not at hand: the fields that are used, and no other.
deny contains sprintf("unknown field spec.%s", [key]) if {
	startswith(input.apiVersion, "cert-manager.io/")
	some key, _ in input.spec
	not key in certificate_keys[input.kind]
}
