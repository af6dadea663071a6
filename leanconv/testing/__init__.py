"""The contract that every method fulfils, in this repository and in other packages.

>>> import leanconv as lc
>>> from leanconv.testing import check_method
>>> check_method(lc.TiedBlock(blocks=2), only="counts_agree")

In a package's own tests, one test for each check::

    @pytest.mark.parametrize("check", leanconv.testing.checks(MyMethod(2)), ids=str)
    def test_contract(check):
        check()
"""

from leanconv.testing.contract import Check, ContractError, check_method, checks
from leanconv.testing.networks import image, lean_network, network, unsettle_
from leanconv.testing.specs import SPECS

__all__ = ["SPECS", "Check", "ContractError", "check_method", "checks", "image", "lean_network", "network", "unsettle_"]
