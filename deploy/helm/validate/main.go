// Command validate reads manifests from standard input and says what a cluster would refuse: it decodes them strictly, applies the API
// server's own defaults and validation, and holds their pods against the "restricted" level of the Pod Security Standards.
//
// It exits with 1 when something is wrong. A kind that is not Kubernetes' own, such as PodMonitor, is counted as skipped.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/apis/apps"
	_ "k8s.io/kubernetes/pkg/apis/apps/install"
	appsvalidation "k8s.io/kubernetes/pkg/apis/apps/validation"
	"k8s.io/kubernetes/pkg/apis/autoscaling"
	_ "k8s.io/kubernetes/pkg/apis/autoscaling/install"
	autoscalingvalidation "k8s.io/kubernetes/pkg/apis/autoscaling/validation"
	"k8s.io/kubernetes/pkg/apis/batch"
	_ "k8s.io/kubernetes/pkg/apis/batch/install"
	batchvalidation "k8s.io/kubernetes/pkg/apis/batch/validation"
	"k8s.io/kubernetes/pkg/apis/core"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	corevalidation "k8s.io/kubernetes/pkg/apis/core/validation"
	"k8s.io/kubernetes/pkg/apis/networking"
	_ "k8s.io/kubernetes/pkg/apis/networking/install"
	networkingvalidation "k8s.io/kubernetes/pkg/apis/networking/validation"
	"k8s.io/kubernetes/pkg/apis/policy"
	_ "k8s.io/kubernetes/pkg/apis/policy/install"
	policyvalidation "k8s.io/kubernetes/pkg/apis/policy/validation"
	podsecurity "k8s.io/pod-security-admission/api"
	podsecuritypolicy "k8s.io/pod-security-admission/policy"
)

const (
	namespace = "default"
	uid       = "00000000-0000-0000-0000-000000000000"
)

// report counts what was looked at, and lists what is wrong.
type report struct {
	valid, pods, skipped int
	faults               []string
}

func main() {
	found, err := read(os.Stdin)
	if err != nil {
		fmt.Fprintln(os.Stderr, "validate:", err)
		os.Exit(2)
	}
	for _, fault := range found.faults {
		fmt.Println(fault)
	}
	fmt.Printf("Valid: %d, Pods: %d, Skipped: %d, Faults: %d\n", found.valid, found.pods, found.skipped, len(found.faults))
	if len(found.faults) > 0 {
		os.Exit(1)
	}
}

func read(input io.Reader) (*report, error) {
	evaluator, err := podsecuritypolicy.NewEvaluator(podsecuritypolicy.DefaultChecks(), nil)
	if err != nil {
		return nil, err
	}
	decoder := serializer.NewCodecFactory(legacyscheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	documents := yaml.NewYAMLReader(bufio.NewReader(input))
	found := &report{}
	for {
		text, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return found, nil
		}
		if err != nil {
			return nil, err
		}
		object, _, err := decoder.Decode(text, nil, nil)
		switch {
		case runtime.IsMissingKind(err): // nothing but comments
		case runtime.IsNotRegisteredError(err):
			found.skipped++
		case err != nil:
			found.faults = append(found.faults, err.Error())
		default:
			if err := found.add(object, evaluator); err != nil {
				return nil, err
			}
		}
	}
}

// add validates one object.
func (found *report) add(object runtime.Object, evaluator podsecuritypolicy.Evaluator) error {
	before := len(found.faults)
	kind := object.GetObjectKind().GroupVersionKind().Kind
	accessor, err := meta.Accessor(object)
	if err != nil {
		return err
	}
	accessor.SetNamespace(namespace) // as a client does
	say := func(fault string) {
		found.faults = append(found.faults, fmt.Sprintf("%s %s: %s", kind, accessor.GetName(), fault))
	}
	if template := podTemplate(object); template != nil {
		found.pods++
		level := podsecurity.LevelVersion{Level: podsecurity.LevelRestricted, Version: podsecurity.LatestVersion()}
		for _, result := range evaluator.EvaluatePod(level, &template.ObjectMeta, &template.Spec) {
			if !result.Allowed {
				say("restricted: " + result.ForbiddenReason + ": " + result.ForbiddenDetail)
			}
		}
	}
	legacyscheme.Scheme.Default(object)
	internal, err := legacyscheme.Scheme.ConvertToVersion(object, runtime.InternalGroupVersioner)
	if err != nil {
		return err
	}
	faults, err := validate(internal)
	if err != nil {
		return err
	}
	for _, fault := range faults {
		say(fault.Error())
	}
	if len(found.faults) == before {
		found.valid++
	}
	return nil
}

func podTemplate(object runtime.Object) *corev1.PodTemplateSpec {
	switch object := object.(type) {
	case *appsv1.Deployment:
		return &object.Spec.Template
	case *appsv1.StatefulSet:
		return &object.Spec.Template
	case *batchv1.Job:
		return &object.Spec.Template
	case *batchv1.CronJob:
		return &object.Spec.JobTemplate.Spec.Template
	}
	return nil
}

// validate calls the API server's validation of a kind, after what the server itself fills in.
func validate(object runtime.Object) (field.ErrorList, error) {
	pods := corevalidation.PodValidationOptions{}
	switch object := object.(type) {
	case *apps.Deployment:
		return appsvalidation.ValidateDeployment(object, pods), nil
	case *apps.StatefulSet:
		return appsvalidation.ValidateStatefulSet(object, pods), nil
	case *batch.Job:
		generateSelector(object)
		return batchvalidation.ValidateJob(object, batchvalidation.JobValidationOptions{PodValidationOptions: pods, RequirePrefixedLabels: true}), nil
	case *batch.CronJob:
		return batchvalidation.ValidateCronJobCreate(object, pods), nil
	case *policy.PodDisruptionBudget:
		return policyvalidation.ValidatePodDisruptionBudget(object, policyvalidation.PodDisruptionBudgetValidationOptions{}), nil
	case *networking.NetworkPolicy:
		return networkingvalidation.ValidateNetworkPolicy(object, networkingvalidation.NetworkPolicyValidationOptions{}), nil
	case *networking.Ingress:
		return networkingvalidation.ValidateIngressCreate(object), nil
	case *autoscaling.HorizontalPodAutoscaler:
		options := autoscalingvalidation.HorizontalPodAutoscalerSpecValidationOptions{MinReplicasLowerBound: 1}
		return autoscalingvalidation.ValidateHorizontalPodAutoscaler(object, options), nil
	case *core.Service:
		if object.Spec.ClusterIP != "" {
			object.Spec.ClusterIPs = []string{object.Spec.ClusterIP}
		}
		return corevalidation.ValidateServiceCreate(object), nil
	case *core.ServiceAccount:
		return corevalidation.ValidateServiceAccount(object), nil
	case *core.ConfigMap:
		return corevalidation.ValidateConfigMap(object), nil
	}
	return nil, fmt.Errorf("there is no validation here for %T; add it", object)
}

// generateSelector gives a Job the labels and the selector that the server generates.
func generateSelector(job *batch.Job) {
	job.UID = uid
	labels := map[string]string{}
	for name, value := range job.Spec.Template.Labels {
		labels[name] = value
	}
	for _, prefix := range []string{"", "batch.kubernetes.io/"} {
		labels[prefix+"controller-uid"] = uid
		labels[prefix+"job-name"] = job.Name
	}
	job.Spec.Template.Labels = labels
	job.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"batch.kubernetes.io/controller-uid": uid}}
}
