"""Every RPC that the installed google-cloud-kms can send: emulated, or named with the reason why not.

A test drives every method of the official clients and fails when one of them is not in these tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from google.cloud import kms_v1
from google.longrunning import operations_pb2  # pyright: ignore[reportMissingTypeStubs] - it ships none

if TYPE_CHECKING:
    from collections.abc import Callable

    from anykms_emulators.gcp.control_plane import ControlPlane
    from anykms_emulators.gcp.data_plane import DataPlane

_KMS: Final = "/google.cloud.kms.v1.KeyManagementService/"
_SINGLE_TENANT: Final = "single-tenant HSM instances are not emulated"
_AUTOKEY: Final = "Autokey is not emulated"
_EKM: Final = "external key managers are not emulated"
_IAM: Final = "IAM policies are not emulated: every caller may do everything"
_LOCATIONS: Final = "locations are not emulated: every location exists"


_Request = TypeVar("_Request")
_Reply = TypeVar("_Reply")


@dataclass(frozen=True, slots=True)
class Rpc(Generic[_Request, _Reply]):
    """One emulated RPC: its message types, the request field that routes it, and what answers."""

    routing: str
    request: type[_Request]
    reply: type[_Reply]
    answer: Callable[[_Request], _Reply]


def emulated(control: ControlPlane, data: DataPlane) -> dict[str, Rpc[Any, Any]]:
    """The emulated RPCs by their full gRPC method name."""
    named: dict[str, Rpc[Any, Any]] = {
        "ListKeyRings": Rpc(
            "parent", kms_v1.ListKeyRingsRequest, kms_v1.ListKeyRingsResponse, control.list_key_rings
        ),
        "ListCryptoKeys": Rpc(
            "parent", kms_v1.ListCryptoKeysRequest, kms_v1.ListCryptoKeysResponse, control.list_crypto_keys
        ),
        "ListCryptoKeyVersions": Rpc(
            "parent",
            kms_v1.ListCryptoKeyVersionsRequest,
            kms_v1.ListCryptoKeyVersionsResponse,
            control.list_crypto_key_versions,
        ),
        "ListImportJobs": Rpc(
            "parent", kms_v1.ListImportJobsRequest, kms_v1.ListImportJobsResponse, control.list_import_jobs
        ),
        "ListRetiredResources": Rpc(
            "parent",
            kms_v1.ListRetiredResourcesRequest,
            kms_v1.ListRetiredResourcesResponse,
            control.list_retired_resources,
        ),
        "GetKeyRing": Rpc("name", kms_v1.GetKeyRingRequest, kms_v1.KeyRing, control.get_key_ring),
        "GetCryptoKey": Rpc("name", kms_v1.GetCryptoKeyRequest, kms_v1.CryptoKey, control.get_crypto_key),
        "GetCryptoKeyVersion": Rpc(
            "name", kms_v1.GetCryptoKeyVersionRequest, kms_v1.CryptoKeyVersion, control.get_crypto_key_version
        ),
        "GetImportJob": Rpc("name", kms_v1.GetImportJobRequest, kms_v1.ImportJob, control.get_import_job),
        "GetRetiredResource": Rpc(
            "name", kms_v1.GetRetiredResourceRequest, kms_v1.RetiredResource, control.get_retired_resource
        ),
        "CreateKeyRing": Rpc("parent", kms_v1.CreateKeyRingRequest, kms_v1.KeyRing, control.create_key_ring),
        "CreateCryptoKey": Rpc(
            "parent", kms_v1.CreateCryptoKeyRequest, kms_v1.CryptoKey, control.create_crypto_key
        ),
        "CreateCryptoKeyVersion": Rpc(
            "parent",
            kms_v1.CreateCryptoKeyVersionRequest,
            kms_v1.CryptoKeyVersion,
            control.create_crypto_key_version,
        ),
        "CreateImportJob": Rpc(
            "parent", kms_v1.CreateImportJobRequest, kms_v1.ImportJob, control.create_import_job
        ),
        "ImportCryptoKeyVersion": Rpc(
            "parent",
            kms_v1.ImportCryptoKeyVersionRequest,
            kms_v1.CryptoKeyVersion,
            control.import_crypto_key_version,
        ),
        "UpdateCryptoKey": Rpc(
            "crypto_key.name", kms_v1.UpdateCryptoKeyRequest, kms_v1.CryptoKey, control.update_crypto_key
        ),
        "UpdateCryptoKeyVersion": Rpc(
            "crypto_key_version.name",
            kms_v1.UpdateCryptoKeyVersionRequest,
            kms_v1.CryptoKeyVersion,
            control.update_crypto_key_version,
        ),
        "UpdateCryptoKeyPrimaryVersion": Rpc(
            "name",
            kms_v1.UpdateCryptoKeyPrimaryVersionRequest,
            kms_v1.CryptoKey,
            control.update_crypto_key_primary_version,
        ),
        "DestroyCryptoKeyVersion": Rpc(
            "name",
            kms_v1.DestroyCryptoKeyVersionRequest,
            kms_v1.CryptoKeyVersion,
            control.destroy_crypto_key_version,
        ),
        "RestoreCryptoKeyVersion": Rpc(
            "name",
            kms_v1.RestoreCryptoKeyVersionRequest,
            kms_v1.CryptoKeyVersion,
            control.restore_crypto_key_version,
        ),
        "DeleteCryptoKeyVersion": Rpc(
            "name",
            kms_v1.DeleteCryptoKeyVersionRequest,
            operations_pb2.Operation,
            control.delete_crypto_key_version,
        ),
        "DeleteCryptoKey": Rpc(
            "name", kms_v1.DeleteCryptoKeyRequest, operations_pb2.Operation, control.delete_crypto_key
        ),
        "Encrypt": Rpc("name", kms_v1.EncryptRequest, kms_v1.EncryptResponse, data.encrypt),
        "Decrypt": Rpc("name", kms_v1.DecryptRequest, kms_v1.DecryptResponse, data.decrypt),
        "RawEncrypt": Rpc("name", kms_v1.RawEncryptRequest, kms_v1.RawEncryptResponse, data.raw_encrypt),
        "RawDecrypt": Rpc("name", kms_v1.RawDecryptRequest, kms_v1.RawDecryptResponse, data.raw_decrypt),
        "AsymmetricSign": Rpc(
            "name", kms_v1.AsymmetricSignRequest, kms_v1.AsymmetricSignResponse, data.asymmetric_sign
        ),
        "AsymmetricDecrypt": Rpc(
            "name",
            kms_v1.AsymmetricDecryptRequest,
            kms_v1.AsymmetricDecryptResponse,
            data.asymmetric_decrypt,
        ),
        "MacSign": Rpc("name", kms_v1.MacSignRequest, kms_v1.MacSignResponse, data.mac_sign),
        "MacVerify": Rpc("name", kms_v1.MacVerifyRequest, kms_v1.MacVerifyResponse, data.mac_verify),
        "Decapsulate": Rpc("name", kms_v1.DecapsulateRequest, kms_v1.DecapsulateResponse, data.decapsulate),
        "GetPublicKey": Rpc("name", kms_v1.GetPublicKeyRequest, kms_v1.PublicKey, data.get_public_key),
        "GenerateRandomBytes": Rpc(
            "location",
            kms_v1.GenerateRandomBytesRequest,
            kms_v1.GenerateRandomBytesResponse,
            data.generate_random_bytes,
        ),
    }
    table = {_KMS + name: rpc for name, rpc in named.items()}
    table["/google.longrunning.Operations/GetOperation"] = Rpc(
        "name", operations_pb2.GetOperationRequest, operations_pb2.Operation, control.get_operation
    )
    return table


NOT_EMULATED: Final[dict[str, str]] = {
    _KMS + "ImportTrustedKeyWrappedCryptoKeyVersion": _SINGLE_TENANT,
    _KMS + "ExportTrustedKeyWrappedCryptoKeyVersion": _SINGLE_TENANT,
    "/google.cloud.location.Locations/GetLocation": _LOCATIONS,
    "/google.cloud.location.Locations/ListLocations": _LOCATIONS,
    "/google.iam.v1.IAMPolicy/GetIamPolicy": _IAM,
    "/google.iam.v1.IAMPolicy/SetIamPolicy": _IAM,
    "/google.iam.v1.IAMPolicy/TestIamPermissions": _IAM,
    "/google.cloud.kms.v1.Autokey/CreateKeyHandle": _AUTOKEY,
    "/google.cloud.kms.v1.Autokey/GetKeyHandle": _AUTOKEY,
    "/google.cloud.kms.v1.Autokey/ListKeyHandles": _AUTOKEY,
    "/google.cloud.kms.v1.AutokeyAdmin/GetAutokeyConfig": _AUTOKEY,
    "/google.cloud.kms.v1.AutokeyAdmin/ShowEffectiveAutokeyConfig": _AUTOKEY,
    "/google.cloud.kms.v1.AutokeyAdmin/UpdateAutokeyConfig": _AUTOKEY,
    "/google.cloud.kms.v1.EkmService/CreateEkmConnection": _EKM,
    "/google.cloud.kms.v1.EkmService/GetEkmConfig": _EKM,
    "/google.cloud.kms.v1.EkmService/GetEkmConnection": _EKM,
    "/google.cloud.kms.v1.EkmService/ListEkmConnections": _EKM,
    "/google.cloud.kms.v1.EkmService/UpdateEkmConfig": _EKM,
    "/google.cloud.kms.v1.EkmService/UpdateEkmConnection": _EKM,
    "/google.cloud.kms.v1.EkmService/VerifyConnectivity": _EKM,
    "/google.cloud.kms.v1.HsmManagement/ApproveSingleTenantHsmInstanceProposal": _SINGLE_TENANT,
    "/google.cloud.kms.v1.HsmManagement/CreateSingleTenantHsmInstance": _SINGLE_TENANT,
    "/google.cloud.kms.v1.HsmManagement/CreateSingleTenantHsmInstanceProposal": _SINGLE_TENANT,
    "/google.cloud.kms.v1.HsmManagement/DeleteSingleTenantHsmInstanceProposal": _SINGLE_TENANT,
    "/google.cloud.kms.v1.HsmManagement/ExecuteSingleTenantHsmInstanceProposal": _SINGLE_TENANT,
    "/google.cloud.kms.v1.HsmManagement/GetSingleTenantHsmInstance": _SINGLE_TENANT,
    "/google.cloud.kms.v1.HsmManagement/GetSingleTenantHsmInstanceProposal": _SINGLE_TENANT,
    "/google.cloud.kms.v1.HsmManagement/ListSingleTenantHsmInstanceProposals": _SINGLE_TENANT,
    "/google.cloud.kms.v1.HsmManagement/ListSingleTenantHsmInstances": _SINGLE_TENANT,
}
