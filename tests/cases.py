"""Problems with exact answers. Values are float64; f has no bias; optimum of the normalised margin is 1/(2 P*)."""

import numpy as np

# A. Orthogonally separable: one direction per class, each the no-bias hard-margin direction of its class.
A_X = np.array([[2.0, 0.0], [0.5, 1.0], [-1.0, -1.0], [-2.0, 0.5]])
A_y = np.array([1.0, 1.0, -1.0, -1.0])
A_PLUS, A_MINUS = np.array([0.5, 0.75]), np.array([-0.6, -0.4])
A_OPTIMUM = np.linalg.norm(A_PLUS) + np.linalg.norm(A_MINUS)  # 1.6224981
A_ALPHA = np.array([0.069338, 0.832050, 0.610170, 0.110940])

# B. Axis XOR.
B_X = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
B_y = np.array([1.0, 1.0, -1.0, -1.0])
B_OPTIMUM = 4.0

# C. One sample x = 1, y = 1, exponential loss, a = w: p = a w obeys Ei(p) - Ei(p0) = 2 t, and p = p0 e^{2s}.
C_P0, C_T, C_P = 0.5, 1000.0, 9.750786
