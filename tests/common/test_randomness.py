from modernbert_train.common.randomness import permutation, philox


def test_random_numbers_are_those_of_the_key_for_ever():
    # A change here would make every run resume with other data than it was started with.
    assert permutation(6, 17, 0, "web").tolist() == [5, 1, 3, 4, 2, 0]
    assert philox(17, 0, "web").random_raw(2).tolist() == [17335407141030014740, 3366178305440511688]
    assert permutation(100, "a").tolist() != permutation(100, "b").tolist()
