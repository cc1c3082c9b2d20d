"""Requests of API Gateway: how a function reads them, and answers them."""
